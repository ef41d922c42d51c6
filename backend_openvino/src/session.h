// A compiled model that one thread runs, and the memory that batches are gathered in.
//
// An inference runs on the thread that asks for it, in an arena of our own that bounds how many others
// may help. OpenVINO's own executor of streams does the same in an arena that pins threads at every
// entry: that takes 4 us more, and pins all instances to one core. EXCLUSIVE_ASYNC_REQUESTS makes
// `infer()` pass it by.
//
// A small policy is compiled for 1, 2, 4, 8 and 16 rows, and a batch is run in such pieces (7 = 4 + 2 + 1),
// without padding: a graph of fixed size needs no shape inference, and one of dynamic size that sees
// another size at each run takes 25 us more than it computes. A large policy, whose weights would be
// read once a piece and kept once a size, has a graph for one row and one of dynamic size. All memory is
// bound once; so a run of a size that was seen before allocates nothing here.
//
// The CPU plugin computes float64 in float32, and cannot compile every graph of fixed size that has
// float64 at an edge. So a graph has float32 there, and rows are converted on their way in and out.
#pragma once

#include <cstddef>
#include <memory>
#include <openvino/openvino.hpp>
#include <tbb/task_arena.h>
#include <vector>

#include "model.h"
#include "spares.h"

class Session {
 public:
  Session(ov::Core& core, Spares& spares, const Model& model);
  ~Session();

  // Room for input `index` from row `first` on, for `rows` rows; what earlier rows hold stays.
  std::byte* room(size_t index, size_t first, size_t rows);

  // Computes `rows` rows from row `first` on. Where `direct` is given, input i is read from direct[i]
  // instead of its room. Throws Refused, or whatever OpenVINO throws.
  void run(size_t first, size_t rows, const std::byte* const* direct = nullptr);

  // Output `index` of the last run, from its first row on; valid until the next run.
  const std::byte* output(size_t index) const { return outputs_[index]; }

  // Whether another session had compiled its graphs.
  bool compiled_before() const { return weights_ != model_.release; }

 private:
  struct Graph {
    ov::CompiledModel compiled;
    ov::InferRequest request;
    std::vector<std::vector<std::byte>> rooms;  // of its own, where it runs pieces
    std::vector<const std::byte*> bound;        // where each input is read
    std::vector<std::vector<float>> narrow;     // inputs of float64, as the graph takes them
    size_t rows = 0;
  };

  Graph graph(ov::Core& core, Compiled& spare, const ov::Dimension& rows) const;
  ov::CompiledModel compile(ov::Core& core, const ov::Dimension& rows) const;
  void infer(Graph& graph, size_t rows, const std::byte* const* from);
  void infer_in_pieces(size_t rows);
  void warm_up();
  template <typename Work>
  void inside(Work work) {
    if (arena_)
      arena_->execute(work);
    else
      work();
  }

  const Model& model_;
  Spares& spares_;
  const bool small_;
  std::shared_ptr<const Release> weights_;  // of the load that compiled the graphs: they read its bytes
  std::unique_ptr<tbb::task_arena> arena_;
  std::vector<Graph> fixed_;  // for 1, 2, 4, ... rows
  Graph any_;
  std::vector<std::vector<std::byte>> rooms_, answers_;  // of whole batches
  std::vector<std::vector<double>> wide_;                // outputs of float64, as the contract has them
  std::vector<const std::byte*> sources_, piece_sources_, outputs_;
};
