// Finds an integer that its contract does not allow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

constexpr size_t kAllWithin = SIZE_MAX;

// Whole numbers between which the elements of a row have to be: one for all, or one an element. Those of a type that
// cannot leave its range are not kept.
struct Range {
  std::vector<int64_t> low, high;

  int64_t low_of(size_t element) const { return low[low.size() == 1 ? 0 : element]; }
  int64_t high_of(size_t element) const { return high[high.size() == 1 ? 0 : element]; }
  bool limits() const { return !low.empty(); }
};

// An element as a whole number; one that int64 cannot hold is as good as its largest.
template <typename Number>
int64_t whole(const std::byte* bytes, size_t at) {
  Number number;
  std::memcpy(&number, bytes + at * sizeof(Number), sizeof(Number));
  constexpr auto kLargest = std::numeric_limits<int64_t>::max();
  if constexpr (sizeof(Number) == 8 && std::numeric_limits<Number>::min() == 0)
    return number > static_cast<Number>(kLargest) ? kLargest : static_cast<int64_t>(number);
  return static_cast<int64_t>(number);
}

// Index of the first of `count` elements, whole rows of `elements`, that is out of range.
template <typename Number>
size_t first_outside(const std::byte* bytes, size_t count, size_t elements, const Range& range) {
  for (size_t at = 0; at < count; ++at) {
    const int64_t number = whole<Number>(bytes, at);
    if (number < range.low_of(at % elements) || number > range.high_of(at % elements)) return at;
  }
  return kAllWithin;
}
