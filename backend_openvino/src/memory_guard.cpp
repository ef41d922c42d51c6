// Keeps the server alive where a client takes away the memory that it shares.
//
// A client shares a file of /dev/shm, which it may cut short at any time: then the server's next touch of a page that is
// gone raises SIGBUS, which ends the server for everybody. So the guard knows which mappings are such regions. It refuses
// a tensor that its file no longer holds. If the file is cut while a request is under way, the touched page gets other
// memory, with all bits set: as a float that is no number, which backends refuse. Mappings of anything else, such as the
// files of a model, are not the client's to change: for those the signal ends the server as before.
//
// Triton also opens whatever file of /dev/shm a client names, with the rights of the server. The memory through which
// Triton and its own backends talk is not for clients.
//
// And Triton closes a region's file once it is mapped, but uses the same descriptor again for the next region of that
// file. By then the number may be a connection of another client, which Triton then closes, or a file of a model. So the
// guard leaves the file open for as long as a region of it is mapped.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "guard.h"

namespace {

constexpr int kAllBits = 0xFF;

// A region that a client registered; unused where it has no bytes. Only atomics: a signal handler reads them.
struct Region {
  std::atomic<std::uintptr_t> start{0};
  std::atomic<std::size_t> bytes{0};
  std::atomic<int> file{-1};
  std::atomic<off_t> offset{0};  // in the file
};
std::array<Region, 4096> regions;            // a client that registers more is refused
std::atomic<std::size_t> ever_registered{0};  // how many of them were ever taken


// By its descriptor, how often a file of clients is in use: once for being open, and once for each region of it.
std::array<std::atomic<std::uint16_t>, 1 << 16> uses;
std::atomic<int> newest{-1};  // the file that was opened last; Triton opens one at a time

bool guarding = false;
std::uintptr_t page_bytes = 4096;

bool is_file_of_clients(int file) {
  return file >= 0 && static_cast<std::size_t>(file) < uses.size() && uses[file].load() != 0;
}

void close_unmapped(int file) {
  std::uint16_t open_only = 1;
  if (is_file_of_clients(file) && uses[file].compare_exchange_strong(open_only, 0)) syscall(SYS_close, file);
}

bool remember(std::uintptr_t start, std::size_t bytes, int file, off_t offset) {
  for (std::size_t i = 0; i < regions.size(); ++i) {
    std::size_t none = 0;
    // Taken first: another thread may look for a place at the same time.
    if (!regions[i].bytes.compare_exchange_strong(none, bytes)) continue;
    ++uses[file];
    regions[i].file.store(file);
    regions[i].offset.store(offset);
    regions[i].start.store(start);
    auto most = ever_registered.load();
    while (most <= i && !ever_registered.compare_exchange_weak(most, i + 1)) {
    }
    return true;
  }
  return false;
}

void forget(std::uintptr_t start, std::size_t bytes) {
  for (auto& region : regions) {
    if (region.start.load() != start || region.bytes.load() != bytes) continue;
    const int file = region.file.load();
    region.start.store(0);
    region.bytes.store(0);
    --uses[file];
    return close_unmapped(file);
  }
}

const Region* region_of(std::uintptr_t at) {
  const auto count = ever_registered.load();
  for (std::size_t i = 0; i < count; ++i) {
    const auto start = regions[i].start.load();
    if (start != 0 && at >= start && at - start < regions[i].bytes.load()) return &regions[i];
  }
  return nullptr;
}

bool was_cut(const void* tensor, std::size_t bytes) {
  const auto at = reinterpret_cast<std::uintptr_t>(tensor);
  const auto* region = region_of(at);
  struct stat now {};
  if (region == nullptr || fstat(region->file.load(), &now) != 0) return false;
  return now.st_size < region->offset.load() + static_cast<off_t>(at - region->start.load() + bytes);
}

void replace_page(int, siginfo_t* info, void*) {
  const int before = errno;
  const auto at = reinterpret_cast<std::uintptr_t>(info->si_addr);
  void* page = MAP_FAILED;
  if (info->si_code == BUS_ADRERR && region_of(at) != nullptr) {
    page = mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  if (page != MAP_FAILED) {
    std::memset(page, kAllBits, page_bytes);
    // In one step, so that no other thread reads a page that is not filled yet.
    page = mremap(page, page_bytes, page_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at / page_bytes * page_bytes);
  }
  if (page == MAP_FAILED) signal(SIGBUS, SIG_DFL);  // comes again when this returns
  errno = before;
}

bool is_for_clients(const char* name) {
  while (*name == '/') ++name;
  const auto begins = [name](const char* with) { return std::strncmp(name, with, std::strlen(with)) == 0; };
  if (begins("policyctl-client-")) return true;
  return !begins("policyctl-") && !begins("triton_python_backend_shm");
}

bool install(const Symbols&) {
  page_bytes = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  struct sigaction action {};
  action.sa_sigaction = replace_page;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  guarding = sigaction(SIGBUS, &action, nullptr) == 0;
  return guarding;
}

}  // namespace

// Only tritonserver has it, and only there clients register memory.
Part shared_memory() { return {"shared memory", {"_ZTVN6triton6server13HTTPAPIServerE"}, install}; }

extern "C" {

__attribute__((visibility("default"))) void* TRITONSERVER_InferenceRequestAppendInputData(
    void* request, const char* name, const void* base, std::size_t bytes, int memory, std::int64_t memory_id) {
  static const auto next = tritons<void* (*)(void*, const char*, const void*, std::size_t, int, std::int64_t)>(
      "TRITONSERVER_InferenceRequestAppendInputData");
  if (guarding && was_cut(base, bytes))
    return triton_error("input '" + std::string(name).substr(0, 64) + "' lies in shared memory that was cut short");
  return next(request, name, base, bytes, memory, memory_id);
}

// Triton's backends call these too: what they open and map is their own.

__attribute__((visibility("default"))) void* mmap(void* at, std::size_t bytes, int rights, int flags, int file,
                                                  off_t offset) noexcept {
  const bool shared = guarding && is_executables_code(__builtin_return_address(0)) && is_file_of_clients(file);
  auto* start = reinterpret_cast<void*>(syscall(SYS_mmap, at, bytes, rights, flags, file, offset));
  if (!shared || start == MAP_FAILED || remember(reinterpret_cast<std::uintptr_t>(start), bytes, file, offset)) return start;
  syscall(SYS_munmap, start, bytes);
  errno = ENOMEM;
  return MAP_FAILED;
}

__attribute__((visibility("default"))) int munmap(void* start, std::size_t bytes) noexcept {
  const auto done = static_cast<int>(syscall(SYS_munmap, start, bytes));
  if (done == 0 && guarding && is_executables_code(__builtin_return_address(0)))
    forget(reinterpret_cast<std::uintptr_t>(start), bytes);
  return done;
}

__attribute__((visibility("default"))) int shm_open(const char* name, int flags, mode_t mode) {
  static const auto next = tritons<int (*)(const char*, int, mode_t)>("shm_open");
  if (!guarding || !is_executables_code(__builtin_return_address(0))) return next(name, flags, mode);
  if (!is_for_clients(name)) {
    errno = EACCES;
    return -1;
  }
  close_unmapped(newest.load());  // its registration failed
  const int file = next(name, flags, mode);
  if (file >= 0 && static_cast<std::size_t>(file) >= uses.size()) {
    syscall(SYS_close, file);
    errno = EMFILE;
    return -1;
  }
  if (file >= 0) uses[file].store(1);
  newest.store(file);
  return file;
}

__attribute__((visibility("default"))) int close(int file) {
  if (guarding && is_executables_code(__builtin_return_address(0)) && is_file_of_clients(file)) return 0;
  return static_cast<int>(syscall(SYS_close, file));
}

}  // extern "C"
