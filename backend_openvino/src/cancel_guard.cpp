// Keeps a cancelled gRPC call of Triton's alive until Triton has heard everything about it.
//
// Each unary call makes three events: it began, its answer went out (or could not), and gRPC has done with it. A
// client's deadline or cancellation may bring the third before the second, and where both come at once to Triton 2.51,
// one of its two threads gives the call's state back while the other one has yet to look at it: the server ends by
// signal 11 (mended in Triton by pull requests 7840 and 8078). Some of these states it never gives back at all.
//
// So the events are counted: a state is given back at the third, whatever the first two said; an event that says at
// once that there is no call (the server stops) is the only one. What is replaced is the one virtual function through
// which all events go, in the table of `ModelInferHandler`: its address and the table's are read from the symbols of
// the executable, and where both are not exactly as in Triton 2.51, nothing is replaced.
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <unordered_map>

namespace {

constexpr char kTable[] = "_ZTVN6triton6server4grpc17ModelInferHandlerE";
// bool ModelInferHandler::Process(State* state, bool rpc_ok): whether more is to come.
constexpr char kProcess[] =
    "_ZN6triton6server4grpc17ModelInferHandler7ProcessEPNS1_17InferHandlerStateIN4grpc25ServerAsyncResponseWriter"
    "IN9inference18ModelInferResponseEEENS6_17ModelInferRequestES7_EEb";
constexpr int kEvents = 3;

using Process = bool (*)(void* handler, void* state, bool ok);
Process tritons_process = nullptr;

// The two threads of Triton seldom meet in one of so many. A state that was given back stays in its map with no events:
// Triton uses the memory again.
struct alignas(64) Stripe {
  std::mutex lock;
  std::unordered_map<void*, int> events;
};
std::array<Stripe, 256> stripes;

// By Fibonacci hashing: states lie at regular distances.
Stripe& stripe_of(const void* state) {
  return stripes[(reinterpret_cast<std::uintptr_t>(state) >> 4) * 0x9E3779B97F4A7C15u >> 56];
}

bool process(void* handler, void* state, bool ok) {
  auto& stripe = stripe_of(state);
  // Held while Triton works on the event: the last one must not give the state back under an earlier one.
  const std::lock_guard<std::mutex> held(stripe.lock);
  auto& event = stripe.events[state];
  ++event;
  const bool more = tritons_process(handler, state, ok);
  if (event < kEvents && (more || event > 1)) return true;
  event = 0;
  return false;
}

std::uintptr_t executable_base() {
  std::uintptr_t base = 0;
  const auto first = [](dl_phdr_info* info, std::size_t, void* found) {
    *static_cast<std::uintptr_t*>(found) = info->dlpi_addr;
    return 1;
  };
  dl_iterate_phdr(first, &base);
  return base;
}

struct Symbols {
  std::uintptr_t table = 0;
  std::uint64_t table_bytes = 0;
  std::uintptr_t process = 0;
};

Symbols symbols_of(const char* file, std::uint64_t size) {
  Symbols found;
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(file);
  if (size < sizeof *header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
      header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_shoff > size ||
      size - header->e_shoff < header->e_shnum * sizeof(Elf64_Shdr)) {
    return found;
  }
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(file + header->e_shoff);
  for (int i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_SYMTAB || sections[i].sh_link >= header->e_shnum) continue;
    const auto& names = sections[sections[i].sh_link];
    if (sections[i].sh_offset + sections[i].sh_size > size || names.sh_offset + names.sh_size > size) return found;
    const auto* symbol = reinterpret_cast<const Elf64_Sym*>(file + sections[i].sh_offset);
    for (const auto* end = symbol + sections[i].sh_size / sizeof *symbol; symbol != end; ++symbol) {
      if (symbol->st_name >= names.sh_size) continue;
      const char* name = file + names.sh_offset + symbol->st_name;
      if (std::strcmp(name, kTable) == 0) {
        found.table = symbol->st_value;
        found.table_bytes = symbol->st_size;
      } else if (std::strcmp(name, kProcess) == 0) {
        found.process = symbol->st_value;
      }
    }
  }
  return found;
}

Symbols symbols_of_executable() {
  const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (file < 0 || fstat(file, &status) != 0) {
    if (file >= 0) close(file);
    return {};
  }
  const auto size = static_cast<std::uint64_t>(status.st_size);
  void* content = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (content == MAP_FAILED) return {};
  const auto found = symbols_of(static_cast<const char*>(content), size);
  munmap(content, size);
  return found;
}

// The table is among what the loader has made read-only.
void replace(std::uintptr_t* entry) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  auto* start = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(entry) / page * page);
  if (mprotect(start, page, PROT_READ | PROT_WRITE) != 0) return;
  tritons_process = reinterpret_cast<Process>(*entry);
  *entry = reinterpret_cast<std::uintptr_t>(&process);
  mprotect(start, page, PROT_READ);
}

__attribute__((constructor)) void guard_cancelled_calls() {
  const auto symbols = symbols_of_executable();
  if (symbols.table == 0 || symbols.process == 0) return;  // every other program that inherits the preload
  const auto base = executable_base();
  auto* entries = reinterpret_cast<std::uintptr_t*>(base + symbols.table);
  for (std::uint64_t i = 0; i < symbols.table_bytes / sizeof *entries; ++i) {
    if (entries[i] == base + symbols.process) return replace(&entries[i]);
  }
}

}  // namespace
