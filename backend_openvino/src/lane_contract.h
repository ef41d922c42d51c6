// What a client of the local lane that reads no JSON has to know of a model.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lane_message.h"

namespace lane {

struct Contract {
  std::int64_t slot = 0;
  std::string release, digest;  // two contracts of one digest are the same
  std::vector<Tensor> inputs, outputs;  // of one row: without the batch's dimension
};

// From Triton's configuration of a model, to which policyctl adds release and contract. Throws Refused where it did not.
Contract read_contract(std::string_view config);

}  // namespace lane
