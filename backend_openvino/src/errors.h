// What the parts of this backend throw, and how it becomes Triton's error.
#pragma once

#include <stdexcept>
#include <string>

// Something that must not be served: a changed file, a configuration that does not fit, a bad request.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};
