// The messages of the local lane: what a client on this machine asks, and how it is answered.
//
// A message comes through a socket, so the kernel has copied it before it is read: it cannot change while it is looked
// at. Tensors lie in memory that client and server share. Numbers are little-endian, without padding; a text has its
// length in one byte before it.
//
//   greeting  of the server, by an answer: it takes the client, or says why not
//   hello     u32 magic, u32 version, u64 bytes of shared memory that the client wants
//   request   u32 kind, u16 inputs, u16 outputs, u64 timeout_us (0: none), i64 version (-1: what is served),
//             u64 answer_at (outputs go there and behind), text id, text model, outputs (text each), inputs
//   answer    u32 code (0: good), u32 number of outputs, i64 version, i64 queue_us, i64 compute_us (-1: unknown),
//             u64 bytes of shared memory that were needed, text id, then text release and outputs, or what is wrong
//   tensor    text name, u8 Triton's type, u8 dimensions, u64 offset, u64 bytes, i64 each dimension
//
// The answer to hello is one of code 0 with the file of the shared memory, or what is wrong. That to a request of the
// contract has the slot as its version, and after the id: text release, text digest of the contract, u16 inputs, u16 outputs, and these as tensors
// of one row, of which offset and bytes mean nothing.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "errors.h"

namespace lane {

constexpr std::uint32_t kMagic = 0x4C504C43, kVersion = 2;
constexpr std::size_t kMessageBytes = 16 << 10;
constexpr std::uint16_t kMostTensors = 64;
constexpr std::uint8_t kMostDimensions = 64;
constexpr std::uint64_t kAlignment = 64;

enum Kind : std::uint32_t { kInfer = 1, kConfig = 2, kStatistics = 3, kContract = 4 };

// The code of an answer is one of Triton's plus one, so that 0 is good, or one of the lane itself. The clients have the
// same table, which a test compares: policyctl/client/local_messages.py, examples/cpp/policyctl_lane.hpp.
enum Code : std::uint32_t {
  kTooSmall = 100,         // the answer needs more shared memory
  kTooManySessions = 101,  // are open
  kMemoryTaken = 102,      // all that the sessions may have together
  kOtherUser = 103,        // the client is not of the server's user
  kOtherVersion = 104,     // of this protocol
  kModelHangs = 105,       // too many of its requests have no client any more
};

// A refusal whose answer has a code; that of any other is Triton's for an invalid argument.
struct CodedRefusal : Refused {
  CodedRefusal(std::uint32_t code_, const std::string& text) : Refused(text), code(code_) {}
  std::uint32_t code;
};

struct Tensor {
  std::string name;
  int type = 0;
  std::uint64_t offset = 0, bytes = 0;
  std::vector<std::int64_t> shape;
};

struct Request {
  std::uint32_t kind = 0;
  std::uint64_t timeout_us = 0;
  std::int64_t version = -1;
  std::uint64_t answer_at = 0;
  std::string id, model;
  std::vector<std::string> outputs;
  std::vector<Tensor> inputs;
};

// The shared memory that a hello asks for. Throws Refused where it is none, or asks for more than `most_bytes`.
std::uint64_t read_hello(std::string_view message, std::uint64_t most_bytes);

// A request whose inputs all lie within `region_bytes`, and are as long as their shapes say. Throws Refused.
Request read_request(std::string_view message, std::uint64_t region_bytes);

// Writes a message; what does not fit is noticed by its size.
class Writer {
 public:
  template <typename Number>
  void number(Number value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void text(std::string_view value);
  void rest(std::string_view value) { text_.append(value); }
  void tensor(const Tensor& tensor);
  const std::string& message() const { return text_; }

 private:
  std::string text_;
};

struct Head {
  std::uint32_t code = 0, outputs = 0;
  std::int64_t version = -1, queue_us = -1, compute_us = -1;
  std::uint64_t needed_bytes = 0;
};
void write_head(Writer& writer, const Head& head, std::string_view id);

}  // namespace lane
