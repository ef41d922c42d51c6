#include "lane_message.h"

#include <algorithm>

namespace lane {
namespace {

// By Triton's numbers of its data types, bytes of one element; 0 for what the lane does not carry (strings).
constexpr std::uint8_t kElementBytes[] = {0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2};

class Reader {
 public:
  explicit Reader(std::string_view message) : left_(message) {}

  template <typename Number>
  Number number() {
    Number value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  // Printable, because it goes into logs and into other programs' texts.
  std::string text() {
    const auto value = take(number<std::uint8_t>());
    if (!std::all_of(value.begin(), value.end(), [](char c) { return c >= ' ' && c <= '~'; }))
      throw Refused("a name or an id in the request is not printable ASCII");
    return std::string(value);
  }

  void end() const {
    if (!left_.empty()) throw Refused("the request is longer than it says");
  }

 private:
  std::string_view take(std::size_t bytes) {
    if (bytes > left_.size()) throw Refused("the request is shorter than it says");
    const auto taken = left_.substr(0, bytes);
    left_.remove_prefix(bytes);
    return taken;
  }

  std::string_view left_;
};

std::uint64_t bytes_of(const Tensor& tensor) {
  const bool known = tensor.type > 0 && static_cast<std::size_t>(tensor.type) < sizeof kElementBytes;
  std::uint64_t bytes = known ? kElementBytes[tensor.type] : 0;
  if (bytes == 0) throw Refused("input " + tensor.name + " has a data type that the lane does not carry");
  for (const auto dimension : tensor.shape) {
    if (dimension < 0) throw Refused("input " + tensor.name + " has a dimension below 0");
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(dimension), &bytes))
      throw Refused("input " + tensor.name + " has a shape of more bytes than there can be");
  }
  return bytes;
}

Tensor read_tensor(Reader& reader, std::uint64_t region_bytes) {
  Tensor tensor;
  tensor.name = reader.text();
  tensor.type = reader.number<std::uint8_t>();
  const auto dimensions = reader.number<std::uint8_t>();
  tensor.offset = reader.number<std::uint64_t>();
  tensor.bytes = reader.number<std::uint64_t>();
  if (dimensions > kMostDimensions) throw Refused("input " + tensor.name + " has too many dimensions");
  for (int i = 0; i < dimensions; ++i) tensor.shape.push_back(reader.number<std::int64_t>());
  if (tensor.bytes > region_bytes || tensor.offset > region_bytes - tensor.bytes)
    throw Refused("input " + tensor.name + " reaches past the shared memory");
  if (bytes_of(tensor) != tensor.bytes) throw Refused("input " + tensor.name + " is not as long as its shape says");
  return tensor;
}

}  // namespace

std::uint64_t read_hello(std::string_view message, std::uint64_t most_bytes) {
  Reader reader(message);
  if (reader.number<std::uint32_t>() != kMagic) throw Refused("this is no client of the lane");
  const auto version = reader.number<std::uint32_t>();
  if (version != kVersion)
    throw CodedRefusal(kOtherVersion, "the client speaks version " + std::to_string(version) +
                                          " of the lane, this server speaks " + std::to_string(kVersion));
  const auto bytes = reader.number<std::uint64_t>();
  reader.end();
  if (bytes == 0 || bytes > most_bytes)
    throw Refused("a request and its answer need " + std::to_string(bytes) + " bytes, at most " +
                  std::to_string(most_bytes) + " can be (POLICYCTL_SERVER__MAX_REQUEST_MIB)");
  return bytes;
}

Request read_request(std::string_view message, std::uint64_t region_bytes) {
  Reader reader(message);
  Request request;
  request.kind = reader.number<std::uint32_t>();
  const auto inputs = reader.number<std::uint16_t>(), outputs = reader.number<std::uint16_t>();
  request.timeout_us = reader.number<std::uint64_t>();
  request.version = reader.number<std::int64_t>();
  request.answer_at = reader.number<std::uint64_t>();
  request.id = reader.text();
  request.model = reader.text();
  if (request.kind < kInfer || request.kind > kContract) throw Refused("unknown kind of request");
  if (inputs > kMostTensors || outputs > kMostTensors) throw Refused("the request has too many tensors");
  if (request.version < -1) throw Refused("the request names a version below 0");
  if (request.answer_at > region_bytes) throw Refused("the answer's place is past the shared memory");
  for (int i = 0; i < outputs; ++i) request.outputs.push_back(reader.text());
  std::uint64_t bytes = 0;
  for (int i = 0; i < inputs; ++i) {
    request.inputs.push_back(read_tensor(reader, region_bytes));
    bytes += request.inputs.back().bytes;  // of at most 64 that are each below 2 GiB
  }
  reader.end();
  // Inputs may lie over one another, but not to be multiplied by it.
  if (bytes > region_bytes) throw Refused("the inputs are longer than the shared memory");
  return request;
}

void Writer::text(std::string_view value) {
  const auto length = static_cast<std::uint8_t>(std::min<std::size_t>(value.size(), UINT8_MAX));
  number(length);
  text_.append(value.substr(0, length));
}

void Writer::tensor(const Tensor& tensor) {
  text(tensor.name);
  number(static_cast<std::uint8_t>(tensor.type));
  number(static_cast<std::uint8_t>(tensor.shape.size()));
  number(tensor.offset);
  number(tensor.bytes);
  for (const auto dimension : tensor.shape) number(dimension);
}

void write_head(Writer& writer, const Head& head, std::string_view id) {
  writer.number(head.code);
  writer.number(head.outputs);
  writer.number(head.version);
  writer.number(head.queue_us);
  writer.number(head.compute_us);
  writer.number(head.needed_bytes);
  writer.text(id);
}

}  // namespace lane
