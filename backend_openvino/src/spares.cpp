#include "spares.h"

#include <algorithm>

namespace {

constexpr size_t kMost = 8;  // some 3 MB for a policy of two layers of 64; 10 for the largest

}  // namespace

Compiled Spares::take(const std::string& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const auto& each) { return each.first == key; });
  if (found == kept_.end()) return {};
  Compiled compiled = std::move(found->second);
  kept_.erase(found);
  return compiled;
}

void Spares::forget(const std::string& digest) {
  std::list<std::pair<std::string, Compiled>> dropped;
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto each = kept_.begin(); each != kept_.end();) {
    const auto next = std::next(each);
    if (each->second.release->digest == digest) dropped.splice(dropped.begin(), kept_, each);
    each = next;
  }
}

void Spares::keep(const std::string& key, Compiled compiled) {
  std::list<std::pair<std::string, Compiled>> surplus;  // ends after the lock, for that takes long
  const std::lock_guard<std::mutex> lock(mutex_);
  kept_.emplace_front(key, std::move(compiled));
  if (kept_.size() > kMost) surplus.splice(surplus.begin(), kept_, std::prev(kept_.end()));
}
