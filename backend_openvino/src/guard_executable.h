// The functions and tables of tritonserver's executable, found by the names in its symbol table.
#pragma once

#include <cstdint>
#include <string_view>
#include <unordered_map>

struct Symbol {
  std::uintptr_t address = 0;  // in this process; 0 where the executable has no such name
  std::uint64_t bytes = 0;
};

using Symbols = std::unordered_map<std::string_view, Symbol>;

// Fills in the symbols whose names are the keys.
void find_symbols(Symbols& wanted);

// Puts `ours` in the place of `function` in `table`. Returns what stood there; nullptr where it does not stand there.
void* replace_entry(const Symbol& table, const Symbol& function, void* ours);

// Whether the code at `address` is the executable's own, not a library's.
bool is_executables_code(const void* address);
