// Releases a trace as tritonserver does, and says in one word when it was gone: "within" the release, whose lock is
// then unlocked in freed memory, "after" it, or "never".
#include <cstdint>
#include <iostream>
#include <memory>

using Release = void (*)(void*, void*);
extern "C" void* TRITONSERVER_InferenceTraceTensorNew(
    void** trace, int level, std::uint64_t parent, void* activity, void* tensors, Release, void* owner);
extern "C" void release_the_trace();

namespace {

bool gone = false;
bool gone_within = false;

struct Trace {
  ~Trace() { gone = true; }
};

void release(void*, void* owner) {
  delete static_cast<std::shared_ptr<Trace>*>(owner);
  gone_within = gone;
}

}  // namespace

int main() {
  void* trace = nullptr;
  auto* owner = new std::shared_ptr<Trace>(std::make_shared<Trace>());
  TRITONSERVER_InferenceTraceTensorNew(&trace, 0, 0, nullptr, nullptr, release, owner);
  release_the_trace();
  std::cout << (gone_within ? "within" : gone ? "after" : "never") << '\n';
}
