// Keeps a trace of Triton's alive until Triton has let go of the trace's lock.
//
// Up to 25.04 tritonserver may delete a trace while it holds the mutex inside it, and unlocks that mutex afterwards.
// By then another thread may have been given the memory: three words of it are overwritten, and the server ends by a
// signal a moment later, or answers wrongly. It happens where the trace's last owner is the release of the request,
// that is, where the front end was quicker: once in some thousand traced requests of a busy server.
//
// Preloaded into tritonserver (LD_PRELOAD), this takes the place of the one function by which it begins a trace, and
// puts a release of its own around the one that is given: as long as it runs, the trace has one owner more. What is
// passed along is Triton's public C API, and a `std::shared_ptr` of which only the count is touched.
#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <memory>

namespace {

using Release = void (*)(void* trace, void* owner);
using New = void* (*)(void** trace, int level, std::uint64_t parent, void* activity, void* tensors, Release, void* owner);

// tritonserver gives the same one each time.
std::atomic<Release> tritons_release{nullptr};

void release(void* trace, void* owner) {
  const auto alive = *static_cast<const std::shared_ptr<void>*>(owner);
  tritons_release.load(std::memory_order_acquire)(trace, owner);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void* TRITONSERVER_InferenceTraceTensorNew(
    void** trace, int level, std::uint64_t parent, void* activity, void* tensors, Release given, void* owner) {
  static const auto next = reinterpret_cast<New>(dlsym(RTLD_NEXT, "TRITONSERVER_InferenceTraceTensorNew"));
  tritons_release.store(given, std::memory_order_release);
  return next(trace, level, parent, activity, tensors, release, owner);
}
