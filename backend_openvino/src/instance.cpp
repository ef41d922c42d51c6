#include "instance.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "finite.h"
#include "range.h"
#include "triton_calls.h"

namespace {

// From this size on, an input of a lone request is read where Triton has it. Copying less than this is
// quicker than telling OpenVINO of another address, which takes 2 us.
constexpr size_t kDirectBytes = 64 << 10;
constexpr size_t kAlignment = 16;

uint64_t now_ns() {
  using std::chrono::steady_clock;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

std::string shape_text(const int64_t* shape, uint32_t dimensions) {
  std::string out;
  for (uint32_t i = 0; i < dimensions; ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return "[" + out + "]";
}

// Refuses the first bad element that `find` finds, if it finds one.
void refuse(size_t (*find)(const std::byte*, size_t, size_t), const Tensor& tensor, const std::byte* bytes,
            size_t rows, const char* before, const char* after) {
  const size_t elements = tensor.elements(), at = find(bytes, rows * elements, tensor.type.size());
  if (at == kAllFinite) return;
  throw Refused(before + tensor.feature(at % elements) + " of row " + std::to_string(at / elements) + " as " +
                not_finite_text(bytes, at, tensor.type.size()) + after);
}

// Refuses the first integer that the contract does not allow: an artifact computes with it all the same.
void refuse_outside(const Tensor& tensor, const std::byte* bytes, size_t rows) {
  if (!tensor.range.limits()) return;
  const auto search = [&](auto number) {
    const size_t elements = tensor.elements();
    const size_t at = first_outside<decltype(number)>(bytes, rows * elements, elements, tensor.range);
    if (at == kAllWithin) return;
    const size_t element = at % elements;
    throw Refused("the request has " + tensor.feature(element) + " of row " + std::to_string(at / elements) + " as " +
                  std::to_string(whole<decltype(number)>(bytes, at)) + ", its range is " +
                  std::to_string(tensor.range.low_of(element)) + " to " + std::to_string(tensor.range.high_of(element)));
  };
  switch (tensor.triton) {
    case TRITONSERVER_TYPE_UINT8: return search(uint8_t{});
    case TRITONSERVER_TYPE_UINT16: return search(uint16_t{});
    case TRITONSERVER_TYPE_UINT32: return search(uint32_t{});
    case TRITONSERVER_TYPE_UINT64: return search(uint64_t{});
    case TRITONSERVER_TYPE_INT8: return search(int8_t{});
    case TRITONSERVER_TYPE_INT16: return search(int16_t{});
    case TRITONSERVER_TYPE_INT32: return search(int32_t{});
    default: return search(int64_t{});
  }
}

bool asks_for(TRITONBACKEND_Request* request, const std::string& output) {
  uint32_t count = 0;
  check(TRITONBACKEND_RequestOutputCount(request, &count));
  for (uint32_t i = 0; i < count; ++i) {
    const char* name;
    check(TRITONBACKEND_RequestOutputName(request, i, &name));
    if (output == name) return true;
  }
  return false;
}

}  // namespace

Instance::Instance(ov::Core& core, Spares& spares, const Model& model, TRITONBACKEND_ModelInstance* handle)
    : model_(model), handle_(handle), session_(core, spares, model), direct_(model.inputs.size()) {
  for (const Tensor& output : model.outputs) {
    shapes_.emplace_back(1, 0);
    shapes_.back().insert(shapes_.back().end(), output.item.begin(), output.item.end());
  }
  if (session_.compiled_before()) log(TRITONSERVER_LOG_INFO, "reused " + model.words(""));
}

void Instance::execute(TRITONBACKEND_Request** requests, uint32_t count) {
  const uint64_t start = now_ns();
  size_t rows = 0, good = 0;
  jobs_.clear();
  for (uint32_t i = 0; i < count; ++i) {
    Job job{requests[i], nullptr, nullptr, rows, 0, false};
    if (succeeded(TRITONBACKEND_ResponseNew(&job.response, job.request))) take(job, count == 1);
    if (job.good) rows += job.rows, ++good;
    jobs_.push_back(job);
  }

  const uint64_t compute_start = now_ns();
  bool together = good == 1;  // then whatever goes wrong is that request's own
  if (good > 1) {
    try {
      session_.run(0, rows);
      together = true;
    } catch (const std::exception&) {
      // Somebody's rows stopped the whole batch: below, each request is computed alone.
    }
  }
  uint64_t compute_end = now_ns();
  for (Job& job : jobs_) {
    if (!job.good) continue;
    attempt(job, TRITONSERVER_ERROR_INTERNAL, [&] {
      const bool alone = good == 1 || !together;
      if (alone) session_.run(job.first, job.rows, count == 1 ? direct_.data() : nullptr);
      if (good == 1) compute_end = now_ns();
      answer(job, alone ? 0 : job.first);
      if (model_.tells) tell(job, (compute_end - compute_start) / 1000);
    });
  }
  for (Job& job : jobs_) {
    if (job.response) succeeded(TRITONBACKEND_ResponseSend(job.response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, job.error));
  }

  const uint64_t end = now_ns();
  for (Job& job : jobs_) {
    succeeded(TRITONBACKEND_ModelInstanceReportStatistics(handle_, job.request, job.response && !job.error, start,
                                                          compute_start, compute_end, end));
    if (job.error) TRITONSERVER_ErrorDelete(job.error);
  }
  if (rows > 0)
    succeeded(TRITONBACKEND_ModelInstanceReportBatchStatistics(handle_, rows, start, compute_start, compute_end, end));
  for (Job& job : jobs_) succeeded(TRITONBACKEND_RequestRelease(job.request, TRITONSERVER_REQUEST_RELEASE_ALL));
}

// Who answered, and how long it took: for the client, in parameters of the response.
void Instance::tell(Job& job, uint64_t compute_us) {
  check(TRITONBACKEND_ResponseSetStringParameter(job.response, "release", model_.release->version.c_str()));
  check(TRITONBACKEND_ResponseSetStringParameter(job.response, "digest", model_.release->digest.c_str()));
  check(TRITONBACKEND_ResponseSetIntParameter(job.response, "compute_us", compute_us));
  if (model_.generation) check(TRITONBACKEND_ResponseSetIntParameter(job.response, "generation", model_.generation));
}

// What goes wrong in `work` becomes the answer to this request alone.
template <typename Work>
void Instance::attempt(Job& job, TRITONSERVER_ErrorCode code, Work work) {
  try {
    work();
    job.good = true;
  } catch (const std::exception& error) {
    job.good = false;
    job.error = TRITONSERVER_ErrorNew(code, error.what());
    const char* id = nullptr;
    succeeded(TRITONBACKEND_RequestId(job.request, &id));
    // What OpenVINO says may hold values of the observation: that is the client's to read, and not the log's.
    const bool ours = dynamic_cast<const Refused*>(&error) != nullptr;
    const std::string said = ours ? error.what() : "a failure of OpenVINO, its words went to the client alone";
    log(code == TRITONSERVER_ERROR_INVALID_ARG ? TRITONSERVER_LOG_WARN : TRITONSERVER_LOG_ERROR,
        "refused " + model_.words(", \"request_id\": " + json_quoted(id ? id : "") + ", \"error\": " + json_quoted(said)));
  }
}

// Reads a request's rows into the batch, and holds them against the contract.
void Instance::take(Job& job, bool alone) {
  bool cancelled = false;
  succeeded(TRITONBACKEND_RequestIsCancelled(job.request, &cancelled));
  if (cancelled) {
    job.error = TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_CANCELLED, "the client has cancelled the request");
    return;
  }
  attempt(job, TRITONSERVER_ERROR_INVALID_ARG, [&] {
    for (size_t i = 0; i < model_.inputs.size(); ++i) {
      const size_t rows = take_input(job, i, alone);
      if (i > 0 && rows != job.rows)
        throw Refused("input " + model_.inputs[i].name + " has " + std::to_string(rows) +
                      " rows, the inputs before it have " + std::to_string(job.rows));
      job.rows = rows;
    }
  });
}

size_t Instance::take_input(Job& job, size_t index, bool alone) {
  const Tensor& input = model_.inputs[index];
  TRITONBACKEND_Input* found = nullptr;
  if (!succeeded(TRITONBACKEND_RequestInput(job.request, input.name.c_str(), &found)))
    throw Refused("input " + input.name + " is missing");
  TRITONSERVER_DataType type;
  const int64_t* shape;
  uint32_t dimensions, buffers;
  uint64_t size;
  check(TRITONBACKEND_InputProperties(found, nullptr, &type, &shape, &dimensions, &size, &buffers));
  const auto same = [](size_t want, int64_t have) { return static_cast<int64_t>(want) == have; };
  if (type != input.triton || dimensions != input.item.size() + 1 || shape[0] < 0 ||
      !std::equal(input.item.begin(), input.item.end(), shape + 1, same))
    throw Refused("input " + input.name + " is " + TRITONSERVER_DataTypeString(type) +
                  shape_text(shape, dimensions) + ", the contract says " + input.text());
  const size_t rows = shape[0];
  if (rows == 0) throw Refused("the request has no rows");
  if (size != rows * input.row_bytes)
    throw Refused("input " + input.name + " has " + std::to_string(size) + " bytes, its shape " +
                  shape_text(shape, dimensions) + " needs " + std::to_string(rows * input.row_bytes));
  direct_[index] = fetch(job, index, found, rows, buffers, alone);
  if (input.floating)
    refuse(first_not_finite, input, direct_[index], rows, "the request has ", "; send finite observations");
  refuse_outside(input, direct_[index], rows);
  return rows;
}

// Where the bytes of an input are: in Triton's own buffer, or in the batch's memory, copied there.
const std::byte* Instance::fetch(Job& job, size_t index, TRITONBACKEND_Input* input, size_t rows, uint32_t buffers,
                                 bool alone) {
  const size_t wanted = rows * model_.inputs[index].row_bytes;
  std::byte* room = nullptr;
  size_t filled = 0;
  for (uint32_t part = 0; part < buffers; ++part) {
    const void* bytes;
    uint64_t size;
    auto memory = TRITONSERVER_MEMORY_CPU;
    int64_t memory_id = 0;
    check(TRITONBACKEND_InputBuffer(input, part, &bytes, &size, &memory, &memory_id));
    if (memory == TRITONSERVER_MEMORY_GPU) throw Refused("input " + model_.inputs[index].name + " is in GPU memory");
    const bool aligned = reinterpret_cast<uintptr_t>(bytes) % kAlignment == 0;
    if (alone && buffers == 1 && size == wanted && size >= kDirectBytes && aligned)
      return static_cast<const std::byte*>(bytes);
    if (!room) room = session_.room(index, job.first, rows);
    if (size > wanted - filled) break;
    std::memcpy(room + filled, bytes, size);
    filled += size;
  }
  if (filled != wanted) throw Refused("input " + model_.inputs[index].name + " is not as long as it says");
  return room;
}

// Gives a request its own rows of the last run, which begin at row `first` of it.
void Instance::answer(Job& job, size_t first) {
  for (size_t i = 0; i < model_.outputs.size(); ++i) {
    const Tensor& output = model_.outputs[i];
    const std::byte* bytes = session_.output(i) + first * output.row_bytes;
    const char *before = "the policy gave ", *after = "; the action is withheld";
    if (!output.floating) continue;
    if (output.action || output.state) refuse(first_not_finite, output, bytes, job.rows, before, after);
    // Infinite scores are how a policy rules a choice out.
    if (output.scores) refuse(first_nan, output, bytes, job.rows, before, after);
  }
  for (size_t i = 0; i < model_.outputs.size(); ++i) {
    const Tensor& output = model_.outputs[i];
    const std::byte* bytes = session_.output(i) + first * output.row_bytes;
    const size_t size = job.rows * output.row_bytes;
    shapes_[i][0] = job.rows;
    void* buffer = nullptr;
    auto memory = TRITONSERVER_MEMORY_CPU;
    int64_t memory_id = 0;
    const auto copy = [&] {
      if (memory == TRITONSERVER_MEMORY_GPU) throw Refused("output " + output.name + " is wanted in GPU memory");
      std::memcpy(buffer, bytes, size);
    };
    if (asks_for(job.request, output.name)) {
      TRITONBACKEND_Output* place;
      check(TRITONBACKEND_ResponseOutput(job.response, &place, output.name.c_str(), output.triton, shapes_[i].data(),
                                         shapes_[i].size()));
      check(TRITONBACKEND_OutputBuffer(place, &buffer, size, &memory, &memory_id));
      copy();
    }
    if (output.state) {
      TRITONBACKEND_State* state;
      check(TRITONBACKEND_StateNew(&state, job.request, output.name.c_str(), output.triton, shapes_[i].data(),
                                   shapes_[i].size()));
      check(TRITONBACKEND_StateBuffer(state, &buffer, size, &memory, &memory_id));
      copy();
      check(TRITONBACKEND_StateUpdate(state));
    }
  }
}
