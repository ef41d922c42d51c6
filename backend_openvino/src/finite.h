// Find what is not a finite number.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

constexpr size_t kAllFinite = SIZE_MAX;

// Index of the first element of type Bits, read as a floating number whose exponent is `mask`, that is
// NaN or infinite: those have every bit of the exponent set. Elements need not be aligned.
template <typename Bits>
size_t first_with_exponent(const std::byte* bytes, size_t count, Bits mask) {
  constexpr size_t kBlock = 64;  // a fixed size, which the compiler turns into vector instructions
  size_t at = 0;
  for (; at + kBlock <= count; at += kBlock) {
    Bits bad = 0;
    for (size_t i = 0; i < kBlock; ++i) {
      Bits bits;
      std::memcpy(&bits, bytes + (at + i) * sizeof(Bits), sizeof(Bits));
      bad |= (bits & mask) == mask;
    }
    if (bad) break;
  }
  for (; at < count; ++at) {
    Bits bits;
    std::memcpy(&bits, bytes + at * sizeof(Bits), sizeof(Bits));
    if ((bits & mask) == mask) return at;
  }
  return kAllFinite;
}

// The same for floating numbers of `width` bytes.
inline size_t first_not_finite(const std::byte* bytes, size_t count, size_t width) {
  switch (width) {
    case 2: return first_with_exponent<uint16_t>(bytes, count, 0x7C00);
    case 4: return first_with_exponent<uint32_t>(bytes, count, 0x7F800000);
    default: return first_with_exponent<uint64_t>(bytes, count, 0x7FF0000000000000);
  }
}

// In words: nan, inf or -inf.
inline const char* not_finite_text(const std::byte* bytes, size_t at, size_t width) {
  uint64_t bits = 0;
  std::memcpy(&bits, bytes + at * width, width);  // little-endian, as x86 and ARM are
  const int fraction = width == 2 ? 10 : width == 4 ? 23 : 52;
  if (bits & ((uint64_t{1} << fraction) - 1)) return "nan";
  return bits >> (8 * width - 1) ? "-inf" : "inf";
}

// Index of the first that is NaN; infinity is passed over.
inline size_t first_nan(const std::byte* bytes, size_t count, size_t width) {
  for (size_t at = 0; at < count; ++at) {
    const size_t ahead = first_not_finite(bytes + at * width, count - at, width);
    if (ahead == kAllFinite) break;
    at += ahead;
    if (not_finite_text(bytes, at, width)[0] == 'n') return at;
  }
  return kAllFinite;
}
