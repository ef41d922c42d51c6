// How deep JSON nests, found without reading anything else of it.
#pragma once

#include <cstddef>

class JsonDepth {
 public:
  explicit JsonDepth(std::size_t most) : most_(most) {}

  // Goes on with the next bytes. False once they nest deeper than may be.
  bool add(const char* bytes, std::size_t size) {
    for (const char* end = bytes + size; bytes != end; ++bytes) {
      if (escaped_) {
        escaped_ = false;
      } else if (text_) {
        text_ = *bytes != '"';
        escaped_ = *bytes == '\\';
      } else if (*bytes == '"') {
        text_ = true;
      } else if (*bytes == '[' || *bytes == '{') {
        if (++depth_ > most_) return false;
      } else if ((*bytes == ']' || *bytes == '}') && depth_ > 0) {
        --depth_;
      }
    }
    return true;
  }

 private:
  std::size_t most_, depth_ = 0;
  bool text_ = false, escaped_ = false;
};
