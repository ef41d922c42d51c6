// One instance of a model: answers the requests that Triton hands over together.
//
// What can be answered together is computed in one inference, on the thread that Triton calls with. A
// request that cannot be answered gets an error of its own and the others get their actions; an action
// that is not finite is never sent. Instances share nothing that changes, so they take no locks.
#pragma once

#include <cstddef>
#include <vector>

#include "model.h"
#include "session.h"
#include "triton.h"

class Instance {
 public:
  Instance(ov::Core& core, Spares& spares, const Model& model, TRITONBACKEND_ModelInstance* handle);

  // Answers and releases every request.
  void execute(TRITONBACKEND_Request** requests, uint32_t count);

 private:
  struct Job {
    TRITONBACKEND_Request* request;
    TRITONBACKEND_Response* response;
    TRITONSERVER_Error* error;
    size_t first, rows;  // its rows in the batch
    bool good;
  };

  void take(Job& job, bool alone);
  size_t take_input(Job& job, size_t index, bool alone);
  const std::byte* fetch(Job& job, size_t index, TRITONBACKEND_Input* input, size_t rows, uint32_t buffers,
                         bool alone);
  void answer(Job& job, size_t first);
  void tell(Job& job, uint64_t compute_us);
  template <typename Work>
  void attempt(Job& job, TRITONSERVER_ErrorCode code, Work work);

  const Model& model_;
  TRITONBACKEND_ModelInstance* handle_;
  Session session_;
  std::vector<Job> jobs_;                     // of the batch at hand
  std::vector<const std::byte*> direct_;      // where each input of a lone request is read
  std::vector<std::vector<int64_t>> shapes_;  // of each output, the rows first
};
