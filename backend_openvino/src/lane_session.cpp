#include "lane_session.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <map>

namespace lane {
namespace {

constexpr int kHelloSeconds = 5;
// A few times what one may have: the owner of the server has to give it.
constexpr std::uint64_t kMostRegions = 16;

// Of one model. A model that hangs takes so many inputs, and then refuses; the others go on.
constexpr int kMostAbandoned = 16;

std::atomic<std::uint64_t> shared_bytes{0};

// Requests whose clients have gone, and that Triton has not ended, by model.
class Abandoned {
 public:
  int of(const std::string& model) {
    const std::lock_guard<std::mutex> held(lock_);
    const auto entry = counts_.find(model);
    return entry == counts_.end() ? 0 : entry->second;
  }
  void add(const std::string& model) {
    const std::lock_guard<std::mutex> held(lock_);
    ++counts_[model];
  }
  void remove(const std::string& model) {
    const std::lock_guard<std::mutex> held(lock_);
    const auto entry = counts_.find(model);
    if (--entry->second == 0) counts_.erase(entry);
  }

 private:
  std::mutex lock_;
  std::map<std::string, int> counts_;
};

Abandoned& abandoned() {
  static auto* const made = new Abandoned;  // never deleted: Triton's threads use it until the process has ended
  return *made;
}

std::uint64_t aligned(std::uint64_t at) { return (at + kAlignment - 1) / kAlignment * kAlignment; }

std::uint32_t code_of(int tritons) { return static_cast<std::uint32_t>(tritons) + 1; }

CodedRefusal refusal_of(TRITONSERVER_Error* error) {
  return {code_of(TRITONSERVER_ErrorCode(error)), TRITONSERVER_ErrorMessage(error)};
}

void check(TRITONSERVER_Error* error) {
  if (error == nullptr) return;
  const auto refused = refusal_of(error);
  TRITONSERVER_ErrorDelete(error);
  throw refused;
}

void ignore(TRITONSERVER_Error* error) {
  if (error != nullptr) TRITONSERVER_ErrorDelete(error);
}

// Triton writes outputs into memory that no client can reach: what it reads there again must be what it wrote.
TRITONSERVER_Error* allocate(TRITONSERVER_ResponseAllocator*, const char*, std::size_t bytes, int, std::int64_t, void*,
                             void** buffer, void** buffers_own, int* memory, std::int64_t* memory_id) {
  *memory = kCpu;
  *memory_id = 0;
  *buffers_own = nullptr;
  *buffer = bytes == 0 ? nullptr : std::aligned_alloc(kAlignment, aligned(bytes));
  if (bytes != 0 && *buffer == nullptr) return TRITONSERVER_ErrorNew(kUnavailable, "no memory for the outputs");
  return nullptr;
}

TRITONSERVER_Error* release(TRITONSERVER_ResponseAllocator*, void* buffer, void*, std::size_t, int, std::int64_t) {
  std::free(buffer);
  return nullptr;
}

TRITONSERVER_ResponseAllocator* allocator() {
  static TRITONSERVER_ResponseAllocator* const made = [] {
    TRITONSERVER_ResponseAllocator* result = nullptr;
    check(TRITONSERVER_ResponseAllocatorNew(&result, allocate, release, nullptr));
    return result;
  }();
  return made;
}

// What the client learns of a good answer, apart from tensors: all else that a backend may say is not read.
void read_parameters(TRITONSERVER_InferenceResponse* response, Head& head, std::string& by_release) {
  std::uint32_t count = 0;
  check(TRITONSERVER_InferenceResponseParameterCount(response, &count));
  for (std::uint32_t i = 0; i < count; ++i) {
    const char* name;
    int type;
    const void* value;
    check(TRITONSERVER_InferenceResponseParameter(response, i, &name, &type, &value));
    const std::string_view key(name);
    if (type == kString && key == "release") by_release = static_cast<const char*>(value);
    if (type == kInteger && key == "queue_us") head.queue_us = *static_cast<const std::int64_t*>(value);
    if (type == kInteger && key == "compute_us") head.compute_us = *static_cast<const std::int64_t*>(value);
  }
}

struct Output {
  Tensor described;
  const void* bytes;
};

std::vector<Output> read_outputs(TRITONSERVER_InferenceResponse* response, std::uint64_t& at) {
  std::uint32_t count = 0;
  check(TRITONSERVER_InferenceResponseOutputCount(response, &count));
  std::vector<Output> outputs;
  for (std::uint32_t i = 0; i < count; ++i) {
    const char* name;
    const std::int64_t* shape;
    std::uint64_t dimensions;
    std::size_t bytes;
    int memory;
    std::int64_t memory_id;
    void* ours;
    Output output;
    check(TRITONSERVER_InferenceResponseOutput(response, i, &name, &output.described.type, &shape, &dimensions,
                                               &output.bytes, &bytes, &memory, &memory_id, &ours));
    if (memory == kGpu) throw Refused("an output is in GPU memory, where the lane cannot read it");
    output.described.name = name;
    output.described.shape.assign(shape, shape + dimensions);
    output.described.bytes = bytes;
    output.described.offset = at = aligned(at);
    at += bytes;
    outputs.push_back(std::move(output));
  }
  return outputs;
}

}  // namespace

// A request that Triton has. It ends when Triton has released it and has given its last response, in any order.
struct Flight {
  std::shared_ptr<Session> session;
  std::string id, model;
  std::uint64_t answer_at = 0;
  std::unique_ptr<char, decltype(&std::free)> inputs{nullptr, &std::free};
  TRITONSERVER_InferenceRequest* request = nullptr;
  bool answered = false;
  bool is_abandoned = false;  // its client has gone
  std::atomic<int> owners{2};

  ~Flight() {
    if (is_abandoned) abandoned().remove(model);
    if (request != nullptr) ignore(TRITONSERVER_InferenceRequestDelete(request));
  }

  void drop() {
    if (owners.fetch_sub(1) == 1) delete this;
  }

  static void released(TRITONSERVER_InferenceRequest*, std::uint32_t flags, void* ours) {
    auto* flight = static_cast<Flight*>(ours);
    if ((flags & kReleaseAll) == 0) return;
    {
      const std::lock_guard<std::mutex> held(flight->session->lock_);
      if (flight->session->flight_ == flight) flight->session->flight_ = nullptr;
    }
    flight->drop();
  }

  static void responded(TRITONSERVER_InferenceResponse* response, std::uint32_t flags, void* ours) {
    auto* flight = static_cast<Flight*>(ours);
    const bool final = (flags & kFinal) != 0;
    if (!flight->answered && (response != nullptr || final)) {
      flight->answered = true;
      flight->answer(response);
    }
    if (response != nullptr) ignore(TRITONSERVER_InferenceResponseDelete(response));
    if (final) flight->drop();
  }

  void answer(TRITONSERVER_InferenceResponse* response) noexcept {
    const std::lock_guard<std::mutex> held(session->leaving_);
    if (session->left_) return;  // nobody waits for it, and its memory is gone
    try {
      if (response == nullptr) throw Refused("the model gave no answer");
      auto* const error = TRITONSERVER_InferenceResponseError(response);
      if (error != nullptr) throw refusal_of(error);
      Head head;
      std::string by_release;
      const char *name, *said_id;
      check(TRITONSERVER_InferenceResponseModel(response, &name, &head.version));
      check(TRITONSERVER_InferenceResponseId(response, &said_id));
      read_parameters(response, head, by_release);
      std::uint64_t at = answer_at;
      const auto outputs = read_outputs(response, at);
      if (at > session->region_bytes_)
        return session->refuse(kTooSmall, "the outputs need more shared memory", id, at);
      head.outputs = static_cast<std::uint32_t>(outputs.size());
      Writer writer;
      write_head(writer, head, said_id);
      writer.text(by_release);
      for (const auto& output : outputs) {
        if (output.described.bytes != 0)
          std::memcpy(session->region_ + output.described.offset, output.bytes, output.described.bytes);
        writer.tensor(output.described);
      }
      if (writer.message().size() > kMessageBytes) throw Refused("the answer has too many tensors for the lane");
      session->busy_ = false;
      session->send(writer.message());
    } catch (const CodedRefusal& refused) {
      session->refuse(refused.code, refused.what(), id);
    } catch (const std::exception& failed) {
      session->refuse(code_of(kInternal), failed.what(), id);
    }
  }
};

Session::Session(TRITONSERVER_Server* server, int socket, std::uint64_t request_bytes)
    : server_(server), socket_(socket), request_bytes_(request_bytes) {}

Session::~Session() { leave(); }

void Session::leave() {
  const std::lock_guard<std::mutex> held(leaving_);
  if (left_) return;
  left_ = true;
  if (region_ != nullptr) munmap(region_, region_bytes_);
  shared_bytes -= region_bytes_;
  close(socket_);
}

void Session::end() { shutdown(socket_, SHUT_RDWR); }

void Session::run() {
  alignas(8) std::array<char, kMessageBytes> message;
  const timeval hello_time{kHelloSeconds, 0};
  setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &hello_time, sizeof hello_time);
  Writer greeting;
  write_head(greeting, Head{}, {});
  send(greeting.message());
  for (bool greeted = false;;) {
    const auto bytes = recv(socket_, message.data(), message.size(), MSG_TRUNC);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0 || static_cast<std::size_t>(bytes) > message.size()) break;
    const std::string_view text(message.data(), static_cast<std::size_t>(bytes));
    if (busy_.exchange(true)) break;  // asked before the last answer: its memory is still written to
    try {
      if (greeted) {
        answer_request(text);
        continue;
      }
      share(read_hello(text, request_bytes_));
      const timeval for_ever{0, 0};
      setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &for_ever, sizeof for_ever);
      greeted = true;
    } catch (const CodedRefusal& refused) {
      refuse(refused.code, refused.what());
    } catch (const Refused& refused) {
      refuse(code_of(kInvalidArgument), refused.what());
    } catch (const std::exception& failed) {
      refuse(code_of(kInternal), failed.what());
    }
    if (!greeted) break;
  }
  end();
  const std::lock_guard<std::mutex> held(lock_);
  if (flight_ == nullptr) return;
  flight_->is_abandoned = true;
  abandoned().add(flight_->model);
  // Nobody waits for it: what has not begun is dropped.
  ignore(TRITONSERVER_InferenceRequestCancel(flight_->request));
}

// Makes the shared memory and hands it over. Its size is sealed, so no client can cut it short.
void Session::share(std::uint64_t bytes) {
  region_bytes_ = bytes;  // counted until `leave`
  if (shared_bytes.fetch_add(bytes) + bytes > kMostRegions * request_bytes_)
    throw CodedRefusal(kMemoryTaken, "the sessions of the lane have taken all the memory that they may");
  const int file = memfd_create("policyctl-lane", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file < 0) throw std::runtime_error("no shared memory can be made");
  void* at = MAP_FAILED;
  // Its pages are taken now: a machine without memory refuses the session, and does not end the server later.
  if (posix_fallocate(file, 0, static_cast<off_t>(bytes)) == 0 &&
      fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
    at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (at == MAP_FAILED) {
    close(file);
    throw std::runtime_error("no shared memory can be made");
  }
  region_ = static_cast<char*>(at);
  Writer writer;
  write_head(writer, Head{}, {});
  busy_ = false;
  send(writer.message(), file);
  close(file);
}

void Session::answer_request(std::string_view message) {
  const auto request = read_request(message, region_bytes_);
  try {
    request.kind == kInfer ? ask(request) : describe(request);
  } catch (const CodedRefusal& refused) {
    refuse(refused.code, refused.what(), request.id);
  }
}

void Session::ask(const Request& request) {
  if (abandoned().of(request.model) >= kMostAbandoned)
    throw CodedRefusal(kModelHangs, "the model " + request.model + " has " + std::to_string(kMostAbandoned) +
                                        " requests that nobody waits for, and ends none");
  auto flight = std::make_unique<Flight>();
  flight->session = shared_from_this();
  flight->id = request.id;
  flight->model = request.model;
  flight->answer_at = request.answer_at;
  check(TRITONSERVER_InferenceRequestNew(&flight->request, server_, request.model.c_str(), request.version));
  auto* const made = flight->request;
  check(TRITONSERVER_InferenceRequestSetId(made, request.id.c_str()));
  if (request.timeout_us != 0) check(TRITONSERVER_InferenceRequestSetTimeoutMicroseconds(made, request.timeout_us));
  std::uint64_t bytes = 0;
  for (const auto& input : request.inputs) bytes = aligned(bytes) + input.bytes;
  flight->inputs.reset(static_cast<char*>(std::aligned_alloc(kAlignment, aligned(bytes + 1))));
  if (flight->inputs == nullptr) throw CodedRefusal(code_of(kUnavailable), "no memory for the request");
  std::uint64_t at = 0;
  for (const auto& input : request.inputs) {
    at = aligned(at);
    auto* const copy = flight->inputs.get() + at;
    // Read once. A client that writes here now harms its own question alone.
    std::memcpy(copy, region_ + input.offset, input.bytes);
    check(TRITONSERVER_InferenceRequestAddInput(made, input.name.c_str(), input.type, input.shape.data(),
                                                input.shape.size()));
    check(TRITONSERVER_InferenceRequestAppendInputData(made, input.name.c_str(), copy, input.bytes, kCpu, 0));
    at += input.bytes;
  }
  for (const auto& output : request.outputs)
    check(TRITONSERVER_InferenceRequestAddRequestedOutput(made, output.c_str()));
  check(TRITONSERVER_InferenceRequestSetReleaseCallback(made, Flight::released, flight.get()));
  check(TRITONSERVER_InferenceRequestSetResponseCallback(made, allocator(), nullptr, Flight::responded, flight.get()));
  {
    const std::lock_guard<std::mutex> held(lock_);
    flight_ = flight.get();
  }
  auto* const error = TRITONSERVER_ServerInferAsync(server_, made, nullptr);
  if (error == nullptr) {
    flight.release();  // its two callbacks have it now, or have ended it
    return;
  }
  {
    const std::lock_guard<std::mutex> held(lock_);
    flight_ = nullptr;
  }
  check(error);
}

void Session::describe(const Request& request) {
  TRITONSERVER_Message* message = nullptr;
  check(request.kind == kStatistics
            ? TRITONSERVER_ServerModelStatistics(server_, request.model.c_str(), request.version, &message)
            : TRITONSERVER_ServerModelConfig(server_, request.model.c_str(), request.version, kConfigVersion, &message));
  const std::unique_ptr<TRITONSERVER_Message, void (*)(TRITONSERVER_Message*)> kept(
      message, [](TRITONSERVER_Message* done) { ignore(TRITONSERVER_MessageDelete(done)); });
  const char* json;
  Tensor tensor;
  check(TRITONSERVER_MessageSerializeToJson(message, &json, &tensor.bytes));
  if (request.kind == kContract) return describe_contract(request, read_contract({json, tensor.bytes}));
  constexpr int kBytes = 2;  // TRITONSERVER_TYPE_UINT8
  tensor.name = "json";
  tensor.type = kBytes;
  tensor.shape = {static_cast<std::int64_t>(tensor.bytes)};
  tensor.offset = aligned(request.answer_at);
  if (const auto end = tensor.offset + tensor.bytes; end > region_bytes_)
    return refuse(kTooSmall, "the answer needs more shared memory", request.id, end);
  std::memcpy(region_ + tensor.offset, json, tensor.bytes);
  Head head;
  head.outputs = 1;
  Writer writer;
  write_head(writer, head, request.id);
  writer.text({});
  writer.tensor(tensor);
  busy_ = false;
  send(writer.message());
}

void Session::describe_contract(const Request& request, const Contract& contract) {
  Head head;
  head.version = contract.slot;
  Writer writer;
  write_head(writer, head, request.id);
  writer.text(contract.release);
  writer.text(contract.digest);
  for (const auto* tensors : {&contract.inputs, &contract.outputs})
    writer.number(static_cast<std::uint16_t>(tensors->size()));
  for (const auto* tensors : {&contract.inputs, &contract.outputs})
    for (const auto& tensor : *tensors) writer.tensor(tensor);
  if (writer.message().size() > kMessageBytes) throw Refused("the contract has too many tensors for the lane");
  busy_ = false;
  send(writer.message());
}

void Session::refuse(std::uint32_t code, std::string_view text, std::string_view id, std::uint64_t needed) {
  Head head;
  head.code = code;
  head.needed_bytes = needed;
  Writer writer;
  write_head(writer, head, id);
  writer.rest(text.substr(0, kMessageBytes / 2));
  busy_ = false;
  send(writer.message());
}

// Never waits: a client that does not read its answers loses its session, and nobody else anything.
void Session::send(const std::string& message, int file) {
  iovec part{const_cast<char*>(message.data()), message.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof file)] = {};
  if (file >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    auto* const rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof file);
    std::memcpy(CMSG_DATA(rights), &file, sizeof file);
  }
  if (sendmsg(socket_, &header, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) end();
}

}  // namespace lane
