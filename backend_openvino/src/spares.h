// Compiled graphs that nobody runs now, kept for the release that comes back: a rollback need not compile.
//
// The key names the release by its manifest's digest, so a load still reads and verifies every byte first.
// Graphs belong to one session at a time, for two that ran them at once would wait for each other.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

#include "release.h"

struct Compiled {
  std::shared_ptr<const Release> release;  // of the load that compiled: the graphs read its bytes, no copy of them
  std::vector<ov::CompiledModel> graphs;   // in the order of their making; empty where none is kept
};

class Spares {
 public:
  // The graphs that were kept under `key`, if any; they are the caller's then.
  Compiled take(const std::string& key);

  // Keeps graphs in place of those that were kept longest.
  void keep(const std::string& key, Compiled compiled);

  // Drops what was kept of the release whose manifest has this digest.
  void forget(const std::string& digest);

 private:
  std::mutex mutex_;
  std::list<std::pair<std::string, Compiled>> kept_;  // newest first
};
