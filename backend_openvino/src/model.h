// One model: what config.pbtxt, the release's contract and the artifact say, held against each other.
//
// A `Model` exists only where all three agree on every name, type, shape and order; so what runs
// requests takes all of that as given.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

#include "json.h"
#include "range.h"
#include "release.h"
#include "triton.h"

// One input or output.
struct Tensor {
  std::string name;
  std::string dtype;  // as contracts name it
  TRITONSERVER_DataType triton;
  ov::element::Type type;
  ov::Shape item;                     // shape of one row
  size_t row_bytes;
  size_t position;                    // among the artifact's own inputs or outputs
  bool floating;                      // can hold what is not a finite number
  bool state;                         // Triton keeps it from one request of a sequence to the next
  bool action;
  bool scores;                        // what the action was chosen by
  std::vector<std::string> features;  // what each element of a row is called; or empty
  std::vector<double> low, high;      // bounds: none, one for all, or one an element
  Range range;                        // the same for integers, which are held against them

  size_t elements() const { return ov::shape_size(item); }
  bool wide() const { return type == ov::element::f64; }
  std::string feature(size_t index) const;
  std::string text() const;  // float32[n, 12]
};

struct Model {
  std::string name;
  std::string slot;
  std::shared_ptr<Release> release;  // holds the weights for as long as a graph may read them
  std::string file;                  // of the release, which is served
  std::vector<Tensor> inputs, outputs;
  int64_t max_batch = 0;
  ov::AnyMap options;
  int threads = 0;  // that one inference may use; 0 where OpenVINO's own executor decides
  std::shared_ptr<ov::Model> artifact;
  size_t artifact_bytes = 0;
  std::atomic<bool> doubted{false};  // it is loaded again although it is loaded: its graphs are not kept
  bool tells = true;                 // who answered and how long it took, in parameters of the response
  int64_t generation = 0;            // of the alias in a fleet, which each response names; 0 where there is none

  // The model's label in a line of the log, with more members after it.
  std::string words(const std::string& more) const;

  // All that its compiled graphs are made of. The release has the contract.
  std::string graphs() const;
};

// Reads, verifies and understands the release; throws Refused where anything does not fit.
std::unique_ptr<Model> load_model(ov::Core& core, const Json& config, const std::string& name,
                                  const std::string& folder, const std::string& slot);

// Inputs, outputs and batching from the release's contract, where config.pbtxt leaves them out.
// Returns whether there was something to complete.
bool complete(Json& config, const std::string& folder, const std::string& slot);
