#include "guard_executable.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

namespace {

// Where the executable lies in memory. The loader lists it first.
struct Extent {
  std::uintptr_t base = 0, code_end = 0, sealed = 0, sealed_end = 0;
};

Extent find_executable() {
  Extent extent;
  const auto first = [](dl_phdr_info* info, std::size_t, void* result) {
    auto& found = *static_cast<Extent*>(result);
    found.base = info->dlpi_addr;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const auto& segment = info->dlpi_phdr[i];
      const auto start = info->dlpi_addr + segment.p_vaddr, end = start + segment.p_memsz;
      if (segment.p_type == PT_LOAD && (segment.p_flags & PF_X) != 0) found.code_end = end;
      if (segment.p_type == PT_GNU_RELRO) found.sealed = start, found.sealed_end = end;
    }
    return 1;
  };
  dl_iterate_phdr(first, &extent);
  return extent;
}

const Extent& executable() {
  static const Extent extent = find_executable();
  return extent;
}

void read_symbols(const char* file, std::uint64_t size, std::uintptr_t base, Symbols& wanted) {
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(file);
  if (size < sizeof *header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
      header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_shoff > size ||
      size - header->e_shoff < header->e_shnum * sizeof(Elf64_Shdr)) {
    return;
  }
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(file + header->e_shoff);
  for (int i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_SYMTAB || sections[i].sh_link >= header->e_shnum) continue;
    const auto& names = sections[sections[i].sh_link];
    if (sections[i].sh_offset + sections[i].sh_size > size || names.sh_offset + names.sh_size > size) return;
    const auto* symbol = reinterpret_cast<const Elf64_Sym*>(file + sections[i].sh_offset);
    for (const auto* end = symbol + sections[i].sh_size / sizeof *symbol; symbol != end; ++symbol) {
      if (symbol->st_name >= names.sh_size) continue;
      const auto entry = wanted.find(file + names.sh_offset + symbol->st_name);
      if (entry != wanted.end()) entry->second = {base + symbol->st_value, symbol->st_size};
    }
  }
}

}  // namespace

void find_symbols(Symbols& wanted) {
  const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (file < 0 || fstat(file, &status) != 0) {
    if (file >= 0) close(file);
    return;
  }
  const auto size = static_cast<std::uint64_t>(status.st_size);
  void* content = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (content == MAP_FAILED) return;
  read_symbols(static_cast<const char*>(content), size, executable().base, wanted);
  munmap(content, size);
}

void* replace_entry(const Symbol& table, const Symbol& function, void* ours) {
  auto* entries = reinterpret_cast<std::uintptr_t*>(table.address);
  for (std::uint64_t i = 0; function.address != 0 && i < table.bytes / sizeof *entries; ++i) {
    if (entries[i] != function.address) continue;
    const auto entry = reinterpret_cast<std::uintptr_t>(&entries[i]);
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    auto* start = reinterpret_cast<void*>(entry / page * page);
    // The loader made a table of constants read-only, and it becomes so again.
    const bool sealed = entry >= executable().sealed && entry < executable().sealed_end;
    if (sealed && mprotect(start, page, PROT_READ | PROT_WRITE) != 0) return nullptr;
    entries[i] = reinterpret_cast<std::uintptr_t>(ours);
    if (sealed) mprotect(start, page, PROT_READ);
    return reinterpret_cast<void*>(function.address);
  }
  return nullptr;
}

bool is_executables_code(const void* address) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  return at >= executable().base && at < executable().code_end;
}
