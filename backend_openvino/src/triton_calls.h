// Triton's conventions in C++: errors become exceptions and back, and lines of the log.
#pragma once

#include <string>

#include "errors.h"
#include "triton.h"

// Turns Triton's error into an exception.
inline void check(TRITONSERVER_Error* error) {
  if (!error) return;
  const std::string text = TRITONSERVER_ErrorMessage(error);
  TRITONSERVER_ErrorDelete(error);
  throw Refused(text);
}

// For a call whose failure nobody could be told of; says whether it succeeded.
inline bool succeeded(TRITONSERVER_Error* error) {
  if (error) TRITONSERVER_ErrorDelete(error);
  return !error;
}

inline void log(TRITONSERVER_LogLevel level, const std::string& text) {
  succeeded(TRITONSERVER_LogMessage(level, "openvino", 0, ("policyctl " + text).c_str()));
}

// Runs what Triton called: no exception crosses the C interface.
template <typename Work>
TRITONSERVER_Error* guarded(Work work) {
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INVALID_ARG, error.what());
  }
}
