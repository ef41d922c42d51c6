// Refuses an input whose shape asks for more memory than a whole request may bring.
//
// Where tensors come as JSON, Triton 2.51 makes room for as many elements as the shape says before it looks at the data
// or at the model. A shape of [2147483648, 4] ends the server, and where the size in bytes wraps around, Triton writes
// behind the room that it made. Both front ends hand every shape to one function of Triton's public C API, and pass on
// the error that it returns: the guard stands in front of it.
#include <cstddef>

#include "guard.h"

namespace {

constexpr std::uint64_t kMostDimensions = 64;
// By Triton's numbers of its data types, bytes of one element; a string has a length of four.
constexpr std::uint8_t kElementBytes[] = {1, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 4, 2};

using AddInput = void* (*)(void* request, const char* name, int type, const std::int64_t* shape, std::uint64_t dimensions);

// What is wrong with the shape; empty where it may be.
std::string fault(int type, const std::int64_t* shape, std::uint64_t dimensions) {
  if (dimensions > kMostDimensions)
    return "has " + std::to_string(dimensions) + " dimensions, at most " + std::to_string(kMostDimensions) + " can be";
  const bool known = type >= 0 && static_cast<std::size_t>(type) < sizeof kElementBytes;
  std::uint64_t bytes = known ? kElementBytes[type] : 1;
  for (std::uint64_t i = 0; i < dimensions; ++i) {
    if (shape[i] < 0) return "has the dimension " + std::to_string(shape[i]) + ", which is below 0";
    if (shape[i] == 0) return "";
  }
  for (std::uint64_t i = 0; i < dimensions; ++i) {
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(shape[i]), &bytes) || bytes > limits().request_bytes)
      return "has a shape of more than " + std::to_string(limits().request_bytes) +
             " bytes, the most that one request may have (POLICYCTL_SERVER__MAX_REQUEST_MIB)";
  }
  return "";
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void* TRITONSERVER_InferenceRequestAddInput(
    void* request, const char* name, int type, const std::int64_t* shape, std::uint64_t dimensions) {
  static const auto next = tritons<AddInput>("TRITONSERVER_InferenceRequestAddInput");
  const auto wrong = fault(type, shape, dimensions);
  if (wrong.empty()) return next(request, name, type, shape, dimensions);
  return triton_error("input '" + std::string(name).substr(0, 64) + "' " + wrong);
}
