// A ModelInferHandler of a dozen lines, with Triton's names: plays the events of one call, given as what Triton itself
// would answer to each (m: more is to come, d: done), and prints what its loop would hear. After a "d" the loop gives
// the call's state back, so that nothing may follow it.
#include <iostream>
#include <string>

namespace grpc {
template <class Response>
class ServerAsyncResponseWriter;
}
namespace inference {
class ModelInferRequest;
class ModelInferResponse;
}  // namespace inference

namespace triton::server::grpc {

template <class Writer, class Request, class Response>
class InferHandlerState {
 public:
  std::string answers;
  std::size_t next = 0;
};

using State = InferHandlerState<
    ::grpc::ServerAsyncResponseWriter<inference::ModelInferResponse>, inference::ModelInferRequest,
    inference::ModelInferResponse>;

class HandlerBase {
 public:
  virtual ~HandlerBase() = default;
  virtual bool Process(State* state, bool rpc_ok) = 0;
};

class ModelInferHandler : public HandlerBase {
 public:
  bool Process(State* state, bool rpc_ok) override;
};

__attribute__((noinline)) bool ModelInferHandler::Process(State* state, bool) {
  return state->answers.at(state->next++) == 'm';
}

}  // namespace triton::server::grpc

int main(int count, char** words) {
  using namespace triton::server::grpc;
  HandlerBase* volatile handler = new ModelInferHandler;
  State state;  // Triton uses them again
  for (int i = 1; i < count; ++i) {
    state.answers = words[i];
    state.next = 0;
    for (std::size_t event = 0; event < state.answers.size(); ++event) {
      std::cout << (handler->Process(&state, true) ? 'm' : 'd');
    }
    std::cout << '\n';
  }
}
