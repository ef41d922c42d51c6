// Asks a policy that policyctl serves on this machine for actions, through the local lane of the server.
//
//   policyctl::Lane walker("walker");                // at the usual socket of this user, `local:`
//   walker.set("observation", observation);          // a std::array, a std::vector: of the contract's type and size
//   walker.ask(std::chrono::milliseconds(2));        // throws policyctl::Error
//   walker.get("action", action);                    // by walker.release()
//
// One header for C++17 on Linux, without dependencies. docs/local-lane.md has the rules of the lane, and
// backend_openvino/src/lane_message.h its messages.
//
// A Lane belongs to one thread of one process. It asks for one action at a time; when a release has answered once, it
// allocates nothing any more. What is wrong with an input is refused before it is sent. An action is given only if the
// contract of the release that answered agrees with the one that the Lane began with. Nothing that was sent is sent
// again, but where a promotion came between: an action has no side effects.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace policyctl {

// What is wrong. Up to 8 they are Triton's, from 100 the lane's; these are the server's answers. From 1000 on this
// client says so. A code that it does not know becomes kUnknown.
enum class Code : std::uint32_t {
  kUnknown = 1,
  kInternal = 2,
  kNotFound = 3,
  kInvalidArgument = 4,
  kUnavailable = 5,
  kUnimplemented = 6,
  kAlreadyExists = 7,
  kCancelled = 8,
  kTooSmall = 100,
  kTooManySessions = 101,
  kMemoryTaken = 102,
  kOtherUser = 103,
  kOtherVersion = 104,
  kModelHangs = 105,
  kDeadline = 1000,         // no answer in time
  kUnreachable = 1001,      // nobody listens, or the server ended the session
  kUnreadable = 1002,       // an answer that is not as the server writes it
  kUsage = 1003,            // the caller's mistake; nothing was sent
  kContractChanged = 1004,  // the release that is served now takes or gives something else
  kUnknownRelease = 1005,   // the release that answered is gone
};

struct Error : std::runtime_error {
  Error(Code code_, const std::string& text) : std::runtime_error(text), code(code_) {}
  Code code;
};

// A tensor of one row, without the batch's dimension. `type` is Triton's number.
struct Tensor {
  std::string name;
  int type = 0;
  std::vector<std::int64_t> shape;
  std::uint64_t elements = 0, bytes = 0;
  bool operator==(const Tensor& o) const { return name == o.name && type == o.type && shape == o.shape; }
};

// What a release takes and gives. Two contracts of one digest are the same, in what Tensor does not have too.
struct Contract {
  std::int64_t slot = -1;  // each release has one
  std::string release, digest;
  std::vector<Tensor> inputs, outputs;
};

namespace lane {

constexpr std::uint32_t kMagic = 0x4C504C43, kVersion = 2;
constexpr std::size_t kMessageBytes = 16 << 10, kMostTensors = 64;
constexpr std::uint64_t kAlignment = 64, kSmallest = 64 << 10, kMostBytes = std::uint64_t{1} << 31;
enum Kind : std::uint32_t { kInfer = 1, kContract = 4 };

// By Triton's numbers of its data types; strings have none.
constexpr std::uint8_t kElementBytes[] = {0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8};
constexpr const char* kTypeNames[] = {"",     "bool",  "uint8", "uint16", "uint32",  "uint64", "int8",
                                      "int16", "int32", "int64", "float16", "float32", "float64"};

template <typename Value>
constexpr int type_number() {
  constexpr int size = sizeof(Value) == 1 ? 0 : sizeof(Value) == 2 ? 1 : sizeof(Value) == 4 ? 2 : 3;
  static_assert(std::is_arithmetic_v<Value>, "tensors are of numbers and bools");
  if constexpr (std::is_same_v<Value, bool>) return 1;
  if constexpr (std::is_floating_point_v<Value>) return sizeof(Value) == 4 ? 11 : sizeof(Value) == 8 ? 12 : 0;
  return (std::is_signed_v<Value> ? 6 : 2) + size;
}

constexpr std::uint64_t aligned(std::uint64_t at) { return (at + kAlignment - 1) / kAlignment * kAlignment; }

[[noreturn]] inline void unreadable(const char* why) {
  throw Error(Code::kUnreadable, std::string("the server's answer cannot be read: ") + why);
}

inline bool is_printable(char c) { return c >= ' ' && c <= '~'; }

// Reads a message, and never past it.
class Reader {
 public:
  explicit Reader(std::string_view message) : left_(message) {}

  template <typename Number>
  Number number() {
    Number value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view text() {
    const auto text = take(number<std::uint8_t>());
    if (!std::all_of(text.begin(), text.end(), is_printable)) unreadable("a name is not printable ASCII");
    return text;
  }
  std::string_view left() const { return left_; }

 private:
  std::string_view take(std::size_t bytes) {
    if (bytes > left_.size()) unreadable("it is shorter than it says");
    const auto taken = left_.substr(0, bytes);
    left_.remove_prefix(bytes);
    return taken;
  }
  std::string_view left_;
};

class Writer {
 public:
  explicit Writer(std::string& message) : message_(message) { message_.clear(); }
  template <typename Number>
  Writer& number(Number value) {
    message_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Writer& text(std::string_view value) {
    if (value.size() > UINT8_MAX) throw Error(Code::kUsage, "a name has more than 255 bytes: " + std::string(value));
    number(static_cast<std::uint8_t>(value.size()));
    message_.append(value);
    return *this;
  }

 private:
  std::string& message_;
};

inline Code known(std::uint32_t code) {
  const bool is_known = (code >= 1 && code <= 8) || (code >= 100 && code <= 105);
  return is_known ? static_cast<Code>(code) : Code::kUnknown;
}

struct Head {
  std::uint32_t outputs = 0;
  std::int64_t slot = 0;
  std::string_view id;
};

// The start of an answer; what follows is still in the reader. An error of the server is thrown.
inline Head read_head(Reader& reader) {
  Head head;
  const auto code = reader.number<std::uint32_t>();
  head.outputs = reader.number<std::uint32_t>();
  head.slot = reader.number<std::int64_t>();
  for (int i = 0; i < 3; ++i) reader.number<std::int64_t>();  // the server's times, and what memory was needed
  head.id = reader.text();
  if (code == 0) return head;
  std::string problem(reader.left());
  std::replace_if(problem.begin(), problem.end(), [](char c) { return !is_printable(c); }, '?');  // it goes into logs
  throw Error(known(code), problem);
}

// A tensor as a message has it; where its bytes lie goes to `offset` and `bytes`.
inline Tensor read_tensor(Reader& reader, std::uint64_t& offset, std::uint64_t& bytes) {
  Tensor tensor;
  tensor.name = std::string(reader.text());
  tensor.type = reader.number<std::uint8_t>();
  const auto dimensions = reader.number<std::uint8_t>();
  offset = reader.number<std::uint64_t>();
  bytes = reader.number<std::uint64_t>();
  const bool known = tensor.type > 0 && static_cast<std::size_t>(tensor.type) < sizeof kElementBytes;
  if (!known) unreadable("an unknown data type");
  std::uint64_t elements = 1;
  for (int i = 0; i < dimensions; ++i) {
    tensor.shape.push_back(reader.number<std::int64_t>());
    const auto dimension = static_cast<std::uint64_t>(tensor.shape.back());
    if (tensor.shape.back() < 1 || __builtin_mul_overflow(elements, dimension, &elements) || elements > kMostBytes)
      unreadable("an impossible shape");
  }
  tensor.elements = elements;
  tensor.bytes = elements * kElementBytes[tensor.type];
  return tensor;
}

// The socket that a url names, by the rule of the server: `local:`, or `local:/path`.
inline std::string path_of(std::string_view url) {
  constexpr std::string_view kScheme = "local:";
  if (url.substr(0, kScheme.size()) != kScheme) throw Error(Code::kUsage, "the url is not local: or local:/path");
  if (url.size() > kScheme.size()) return std::string(url.substr(kScheme.size()));
  const auto user = std::to_string(getuid());
  const char* const set = std::getenv("XDG_RUNTIME_DIR");
  std::string base = set != nullptr && *set != '\0' ? set : "/run/user/" + user;
  struct stat there {};
  if ((set == nullptr || *set == '\0') && (stat(base.c_str(), &there) != 0 || !S_ISDIR(there.st_mode))) base = "/tmp";
  return base + "/policyctl-" + user + "/lane.sock";
}

// Releases for which this is the same, and not empty, keep what they promise to clients of one another.
inline std::string promise_of(const std::string& release) {
  const auto major = release.find('.');
  if (major == std::string::npos || release.find('-') != std::string::npos) return {};
  return release.substr(0, release[0] == '0' ? release.find('.', major + 1) : major);
}

using Clock = std::chrono::steady_clock;

inline Clock::time_point after(std::chrono::nanoseconds time) {
  return Clock::now() + std::min<std::chrono::nanoseconds>(time, std::chrono::hours(24));  // more could not be added
}

// One connection, and the memory that it shares with the server. Closed when it goes.
class Connection {
 public:
  Connection(const std::string& path, std::uint64_t bytes, Clock::time_point until) {
    try {
      open(path, bytes, until);
    } catch (...) {
      close();
      throw;
    }
  }
  ~Connection() { close(); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  std::uint64_t bytes() const { return bytes_; }

  // Both throw where a place is not within the memory, from whichever side it comes.
  void write(std::uint64_t at, const void* from, std::uint64_t bytes) {
    require_within(at, bytes);
    if (bytes != 0) std::memcpy(region_ + at, from, bytes);
  }
  void read(std::uint64_t at, void* to, std::uint64_t bytes) const {
    require_within(at, bytes);
    if (bytes != 0) std::memcpy(to, region_ + at, bytes);
  }
  void require_within(std::uint64_t at, std::uint64_t bytes) const {
    if (bytes > bytes_ || at > bytes_ - bytes) unreadable("it names a place past the shared memory");
  }

  // Whether it was sent; false where the server had ended the session before.
  bool send(std::string_view message, Clock::time_point until) {
    while (::send(socket_, message.data(), message.size(), MSG_NOSIGNAL) < 0) {
      if (errno == EPIPE || errno == ECONNRESET) return false;
      if (errno != EAGAIN && errno != EINTR) unreachable("the request cannot be sent");
      wait(POLLOUT, until);
    }
    return true;
  }

  // The next message; it lies here until the one after it. `file` gets the file that came along, if one did.
  std::string_view receive(Clock::time_point until, int* file = nullptr) {
    iovec part{message_, sizeof message_};
    for (;;) {
      alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
      msghdr header{};
      header.msg_iov = &part;
      header.msg_iovlen = 1;
      if (file != nullptr) {
        header.msg_control = control;
        header.msg_controllen = CMSG_LEN(sizeof(int));  // for one file, not two
      }
      wait(POLLIN, until);
      const auto bytes = recvmsg(socket_, &header, MSG_CMSG_CLOEXEC);
      if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (bytes < 0) unreachable("the connection broke");
      if (bytes == 0) throw Error(Code::kUnreachable, "the server ended the session");
      if (file != nullptr) take_file(header, *file);
      if ((header.msg_flags & MSG_TRUNC) != 0) unreadable("it is too long");
      return {message_, static_cast<std::size_t>(bytes)};
    }
  }

 private:
  void open(const std::string& path, std::uint64_t bytes, Clock::time_point until) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path[0] != '/' || path.size() >= sizeof address.sun_path)
      throw Error(Code::kUsage, "the url names no UNIX socket: " + path);
    std::copy(path.begin(), path.end(), address.sun_path);
    socket_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (socket_ < 0 || connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
      unreachable("no server can be reached at " + path);
    ucred peer{};
    socklen_t size = sizeof peer;
    if (getsockopt(socket_, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || (peer.uid != 0 && peer.uid != geteuid()))
      throw Error(Code::kOtherUser, "the server at " + path + " belongs to another user");
    greeted(receive(until));
    std::string hello;
    Writer(hello).number(kMagic).number(kVersion).number(bytes);
    if (!send(hello, until)) throw Error(Code::kUnreachable, "the server ended the session");
    int file = -1;
    try {
      greeted(receive(until, &file));
      map(file, bytes);
    } catch (...) {
      if (file >= 0) ::close(file);
      throw;
    }
    ::close(file);
  }

  static void greeted(std::string_view message) {
    Reader reader(message);
    read_head(reader);
  }

  // Its size must be sealed: memory that the server could cut short would end this process.
  void map(int file, std::uint64_t bytes) {
    if (file < 0) throw Error(Code::kUnreachable, "the shared memory did not come: can this process open more files?");
    const int seals = fcntl(file, F_GET_SEALS);
    struct stat there {};
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(file, &there) != 0 ||
        static_cast<std::uint64_t>(there.st_size) < bytes)
      unreadable("the shared memory is shorter than it should be, or can become so");
    void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (at == MAP_FAILED) unreachable("the shared memory cannot be used");
    region_ = static_cast<char*>(at);
    bytes_ = bytes;
  }

  static void take_file(msghdr& header, int& file) {
    for (auto* each = CMSG_FIRSTHDR(&header); each != nullptr; each = CMSG_NXTHDR(&header, each))
      if (each->cmsg_level == SOL_SOCKET && each->cmsg_type == SCM_RIGHTS && each->cmsg_len == CMSG_LEN(sizeof file))
        std::memcpy(&file, CMSG_DATA(each), sizeof file);
  }

  void wait(short events, Clock::time_point until) const {
    const auto left = until - Clock::now();
    if (left.count() <= 0) throw Error(Code::kDeadline, "no answer within the deadline");
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    const timespec time{static_cast<time_t>(seconds.count()), static_cast<long>((left - seconds).count())};
    pollfd polled{socket_, events, 0};
    ppoll(&polled, 1, &time, nullptr);  // what became ready shows at the next try
  }

  [[noreturn]] static void unreachable(const std::string& what) {
    throw Error(Code::kUnreachable, what + ": " + std::strerror(errno));
  }

  void close() {
    if (region_ != nullptr) munmap(region_, bytes_);
    if (socket_ >= 0) ::close(socket_);
  }

  int socket_ = -1;
  char* region_ = nullptr;
  std::uint64_t bytes_ = 0;
  alignas(8) char message_[kMessageBytes];
};

}  // namespace lane

class Lane {
 public:
  // Asks `model` at `url`, and reads its contract. `outputs` are those that `get` gives; none named, all of them are.
  // Throws Error where no server is ready within `within`.
  explicit Lane(std::string model, std::string_view url = "local:", std::vector<std::string> outputs = {},
                std::chrono::nanoseconds within = std::chrono::seconds(5))
      : model_(std::move(model)), path_(lane::path_of(url)), wanted_(std::move(outputs)) {
    open(lane::after(within));
  }

  // Of the release that answered last, or that was served when the Lane began.
  const Contract& contract() const { return contract_; }

  // Which answered, and in which slot.
  const std::string& release() const { return contract_.release; }
  std::int64_t slot() const { return contract_.slot; }

  // Takes the values of an input, for this request and those after it. float16 comes as bits in std::uint16_t.
  template <typename Values>
  void set(std::string_view name, const Values& values) {
    auto& input = named(inputs_, name, "input");
    require_fits<Values>(input.tensor, std::size(values));
    std::memcpy(staged_.data() + input.at, std::data(values), input.tensor.bytes);
    input.is_set = true;
  }

  // Asks, and waits for the answer for at most `within`. Where a session has ended, it opens another one.
  void ask(std::chrono::nanoseconds within) {
    is_answered_ = false;
    for (const auto& input : inputs_)
      if (!input.is_set) throw Error(Code::kUsage, "input " + input.tensor.name + " was never set");
    const auto until = lane::after(within);
    try {
      for (int round = 0; round < kRounds && !is_answered_; ++round) is_answered_ = exchange(until);
    } catch (const Error& error) {
      // An answer may still come, and is not to be taken for that to another request. An error was the answer.
      if (error.code >= Code::kDeadline) connection_.reset();
      throw;
    } catch (...) {
      connection_.reset();
      throw;
    }
    if (!is_answered_) throw Error(Code::kUnknownRelease, "the release that answered is gone, whatever it promised");
  }

  // Opens another session where none is left; else it does nothing. That may take longer than the deadline of an `ask`,
  // and each `ask` would begin it again: so a loop calls this while it holds. Throws Error as the constructor does.
  void reopen(std::chrono::nanoseconds within = std::chrono::seconds(5)) {
    if (connection_ == nullptr) open(lane::after(within));
  }

  // Copies an output of the answer. It refuses where the last `ask` got none.
  template <typename Values>
  void get(std::string_view name, Values& values) const {
    if (!is_answered_) throw Error(Code::kUsage, "no answer is there to read");
    const auto& output = named(outputs_, name, "output");
    require_fits<Values>(output.tensor, std::size(values));
    std::memcpy(std::data(values), answer_.data() + output.at, output.tensor.bytes);
  }

 private:
  static constexpr int kRounds = 3;
  static constexpr std::size_t kTimeoutAt = 8, kIdAt = 33, kIdBytes = 16;

  struct Place {
    Tensor tensor;
    std::uint64_t at = 0;         // in `staged_` and in the shared memory; of an output, in `answer_`
    bool is_set = false;          // an input has values; an output was described
    std::uint64_t shared_at = 0;  // of an output, in the shared memory
  };

  template <typename Places>
  static auto& named(Places& places, std::string_view name, const char* what) {
    for (auto& place : places)
      if (place.tensor.name == name) return place;
    throw Error(Code::kUsage, std::string("unknown ") + what + " " + std::string(name));
  }

  template <typename Values>
  static void require_fits(const Tensor& tensor, std::size_t count) {
    constexpr int kFloat16 = 10, kBits = 3;
    using Value = std::remove_cv_t<std::remove_pointer_t<decltype(std::data(std::declval<Values&>()))>>;
    constexpr int type = lane::type_number<Value>();
    if (count == tensor.elements && (type == tensor.type || (tensor.type == kFloat16 && type == kBits))) return;
    throw Error(Code::kUsage, tensor.name + " has " + std::to_string(count) + " numbers of " + lane::kTypeNames[type] +
                                  " here, the contract says " + std::to_string(tensor.elements) + " of " +
                                  lane::kTypeNames[tensor.type]);
  }

  void open(lane::Clock::time_point until) {
    connection_.reset();
    known_.clear();
    do {
      connection_ = std::make_unique<lane::Connection>(path_, std::max(lane::kSmallest, needed_), until);
      try {
        agree(fetch_contract(-1, until));
      } catch (...) {
        connection_.reset();
        throw;
      }
    } while (connection_->bytes() < needed_);
  }

  // The contract of a slot; -1 means what is served.
  Contract fetch_contract(std::int64_t slot, lane::Clock::time_point until) {
    std::string message;
    lane::Writer writer(message);
    writer.number(lane::kContract).number(std::uint32_t{0}).number(std::uint64_t{0}).number(slot);
    writer.number(std::uint64_t{0}).text("").text(model_);
    if (!connection_->send(message, until)) throw Error(Code::kUnreachable, "the server ended the session");
    lane::Reader reader(connection_->receive(until));
    Contract contract;
    contract.slot = lane::read_head(reader).slot;
    contract.release = std::string(reader.text());
    contract.digest = std::string(reader.text());
    const std::size_t inputs = reader.number<std::uint16_t>(), outputs = reader.number<std::uint16_t>();
    if (contract.release.empty() || contract.digest.empty()) lane::unreadable("it names no release");
    if (inputs > lane::kMostTensors || outputs > lane::kMostTensors) lane::unreadable("too many tensors");
    std::uint64_t ignored;
    for (std::size_t i = 0; i < inputs; ++i) contract.inputs.push_back(lane::read_tensor(reader, ignored, ignored));
    for (std::size_t i = 0; i < outputs; ++i) contract.outputs.push_back(lane::read_tensor(reader, ignored, ignored));
    if (!reader.left().empty()) lane::unreadable("it is longer than it says");
    return contract;
  }

  // Goes on with a release whose contract means the same to this caller, and with no other one.
  void agree(Contract fresh) {
    if (contract_.release.empty()) {
      begin(fresh);
    } else if (fresh.digest != contract_.digest) {
      const auto promise = lane::promise_of(fresh.release);
      const auto has = [&](const Place& place) {
        return std::find(fresh.outputs.begin(), fresh.outputs.end(), place.tensor) != fresh.outputs.end();
      };
      if (promise.empty() || promise != lane::promise_of(contract_.release) || fresh.inputs != contract_.inputs ||
          !std::all_of(outputs_.begin(), outputs_.end(), has))
        throw Error(Code::kContractChanged, "release " + fresh.release + " is served now, and its contract is not that of " +
                                                contract_.release + ", with which this client began");
    }
    contract_ = std::move(fresh);
  }

  // Lays out the memory and writes the request, in which only time and id change from now on.
  void begin(const Contract& contract) {
    std::vector<Place> inputs, outputs;
    std::uint64_t at = 0, answer_bytes = 0;
    for (const auto& tensor : contract.inputs) {
      inputs.push_back({tensor, at});
      at = lane::aligned(at + tensor.bytes);
    }
    for (const auto& tensor : contract.outputs) {
      if (!wanted_.empty() && std::find(wanted_.begin(), wanted_.end(), tensor.name) == wanted_.end()) continue;
      outputs.push_back({tensor, answer_bytes});
      answer_bytes = lane::aligned(answer_bytes + tensor.bytes);
    }
    if (!wanted_.empty() && outputs.size() != wanted_.size())
      throw Error(Code::kUsage, "an output that was asked for is not in the contract of " + contract.release);
    if (at > lane::kMostBytes || answer_bytes > lane::kMostBytes) lane::unreadable("impossible shapes");
    lane::Writer writer(request_);
    writer.number(lane::kInfer).number(static_cast<std::uint16_t>(inputs.size()));
    writer.number(static_cast<std::uint16_t>(outputs.size())).number(std::uint64_t{0}).number(std::int64_t{-1});
    writer.number(at).text(std::string(kIdBytes, '0')).text(model_);
    for (const auto& output : outputs) writer.text(output.tensor.name);
    for (const auto& input : inputs) {
      const auto& shape = input.tensor.shape;
      writer.text(input.tensor.name).number(static_cast<std::uint8_t>(input.tensor.type));
      writer.number(static_cast<std::uint8_t>(shape.size() + 1));
      writer.number(input.at).number(input.tensor.bytes).number(std::int64_t{1});
      for (const auto dimension : shape) writer.number(dimension);
    }
    staged_.resize(at);
    answer_.resize(answer_bytes);
    inputs_ = std::move(inputs);
    outputs_ = std::move(outputs);
    needed_ = at + answer_bytes;
  }

  // Asks once. False where the release that answered is gone before its contract could be read.
  bool exchange(lane::Clock::time_point until) {
    send_request(until);
    lane::Reader reader(connection_->receive(until));
    const auto head = lane::read_head(reader);
    if (head.id != std::string_view(request_).substr(kIdAt, kIdBytes)) lane::unreadable("it is to another request");
    const bool is_known = !known_.empty() && head.slot == contract_.slot && reader.left() == known_;
    if (!is_known && !learn(head, std::string(reader.left()), until)) return false;
    for (const auto& output : outputs_)
      connection_->read(output.shared_at, answer_.data() + output.at, output.tensor.bytes);
    return true;
  }

  void send_request(lane::Clock::time_point until) {
    for (bool is_new = false;; is_new = true) {
      if (connection_ == nullptr) {
        open(until);
        is_new = true;
      }
      const auto left = std::chrono::duration_cast<std::chrono::microseconds>(until - lane::Clock::now());
      const std::uint64_t timeout_us = std::max<std::int64_t>(1, left.count());
      std::memcpy(&request_[kTimeoutAt], &timeout_us, sizeof timeout_us);
      auto number = ++number_;
      for (std::size_t i = kIdBytes; i-- > 0; number >>= 4) request_[kIdAt + i] = "0123456789abcdef"[number & 15];
      connection_->write(0, staged_.data(), staged_.size());
      if (connection_->send(request_, until)) return;
      connection_.reset();
      if (is_new) throw Error(Code::kUnreachable, "the server ended the session");
    }
  }

  // Reads what describes an answer; remembered, because the next answers say the same.
  bool learn(const lane::Head& head, const std::string& described, lane::Clock::time_point until) {
    known_.clear();
    lane::Reader reader(described);
    const auto release = reader.text();  // not every backend says it
    if (head.slot != contract_.slot) {
      Contract fresh;
      try {
        fresh = fetch_contract(head.slot, until);
      } catch (const Error& error) {
        if (error.code == Code::kNotFound || error.code == Code::kUnavailable) return false;
        throw;
      }
      if (fresh.slot != head.slot) return false;
      agree(std::move(fresh));
    }
    if (!release.empty() && release != contract_.release) return false;
    if (head.outputs != outputs_.size()) lane::unreadable("not the outputs that were asked for");
    for (auto& output : outputs_) output.is_set = false;
    for (std::uint32_t i = 0; i < head.outputs; ++i) {
      std::uint64_t at, bytes;
      auto tensor = lane::read_tensor(reader, at, bytes);
      if (tensor.shape.empty() || tensor.shape[0] != 1) lane::unreadable("an output that is not of one row");
      tensor.shape.erase(tensor.shape.begin());
      const auto place = std::find_if(outputs_.begin(), outputs_.end(), [&](auto& o) { return o.tensor == tensor; });
      if (place == outputs_.end() || place->is_set || bytes != place->tensor.bytes)
        lane::unreadable("an output that is not as the contract says");
      connection_->require_within(at, bytes);
      place->shared_at = at;
      place->is_set = true;
    }
    if (!reader.left().empty()) lane::unreadable("it is longer than it says");
    known_ = described;
    return true;
  }

  std::string model_, path_;
  std::vector<std::string> wanted_;
  std::unique_ptr<lane::Connection> connection_;
  Contract contract_;
  std::vector<Place> inputs_, outputs_;
  std::vector<char> staged_, answer_;
  std::string request_, known_;
  std::uint64_t needed_ = 0, number_ = 0;
  bool is_answered_ = false;
};

}  // namespace policyctl
