// A backend that writes zeros: what Triton and the network cost without any computing.
//
// `benchmarks/backends.py` measures it beside the others, so that what is left to gain is known. It
// answers every output of the configuration with as many zero rows as the request has, and checks
// nothing: never serve with it.

#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

#include "json.h"
#include "triton_calls.h"

namespace {

struct Output {
  std::string name;
  std::vector<int64_t> shape;
  size_t row_bytes;
};

struct Floor {
  std::string input;
  std::vector<Output> outputs;
};

uint64_t now_ns() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

Floor* floor_of(TRITONBACKEND_ModelInstance* instance) {
  TRITONBACKEND_Model* model;
  void* state;
  check(TRITONBACKEND_ModelInstanceModel(instance, &model));
  check(TRITONBACKEND_ModelState(model, &state));
  return static_cast<Floor*>(state);
}

size_t answer(const Floor& floor, TRITONBACKEND_Request* request, TRITONBACKEND_Response* response) {
  TRITONBACKEND_Input* input;
  check(TRITONBACKEND_RequestInput(request, floor.input.c_str(), &input));
  const int64_t* given;
  check(TRITONBACKEND_InputProperties(input, nullptr, nullptr, &given, nullptr, nullptr, nullptr));
  for (const Output& output : floor.outputs) {
    std::vector<int64_t> shape = output.shape;
    shape[0] = given[0];
    TRITONBACKEND_Output* place;
    check(TRITONBACKEND_ResponseOutput(response, &place, output.name.c_str(), TRITONSERVER_TYPE_FP32, shape.data(),
                                       shape.size()));
    void* buffer;
    auto memory = TRITONSERVER_MEMORY_CPU;
    int64_t memory_id = 0;
    check(TRITONBACKEND_OutputBuffer(place, &buffer, shape[0] * output.row_bytes, &memory, &memory_id));
    std::memset(buffer, 0, shape[0] * output.row_bytes);
  }
  return given[0];
}

}  // namespace

TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  return guarded([&] {
    TRITONSERVER_Message* message;
    const char* text;
    size_t size;
    check(TRITONBACKEND_ModelConfig(model, 1, &message));
    check(TRITONSERVER_MessageSerializeToJson(message, &text, &size));
    const Json config = parse_json({text, size});
    check(TRITONSERVER_MessageDelete(message));
    auto floor = std::make_unique<Floor>();
    floor->input = config.at("input").array().at(0).at("name").string();
    for (const Json& item : config.at("output").array()) {
      Output output{item.at("name").string(), {-1}, sizeof(float)};
      for (const Json& dimension : item.at("dims").array()) {
        output.shape.push_back(dimension.integer());
        output.row_bytes *= dimension.integer();
      }
      floor->outputs.push_back(std::move(output));
    }
    check(TRITONBACKEND_ModelSetState(model, floor.release()));
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  return guarded([&] {
    void* state;
    check(TRITONBACKEND_ModelState(model, &state));
    delete static_cast<Floor*>(state);
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* instance,
                                                       TRITONBACKEND_Request** requests, uint32_t count) {
  return guarded([&] {
    const Floor& floor = *floor_of(instance);
    const uint64_t start = now_ns();
    size_t rows = 0;
    for (uint32_t i = 0; i < count; ++i) {
      TRITONBACKEND_Response* response;
      check(TRITONBACKEND_ResponseNew(&response, requests[i]));
      rows += answer(floor, requests[i], response);
      succeeded(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, nullptr));
    }
    const uint64_t end = now_ns();
    for (uint32_t i = 0; i < count; ++i) {
      succeeded(TRITONBACKEND_ModelInstanceReportStatistics(instance, requests[i], true, start, start, end, end));
      succeeded(TRITONBACKEND_RequestRelease(requests[i], TRITONSERVER_REQUEST_RELEASE_ALL));
    }
    succeeded(TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, rows, start, start, end, end));
  });
}
