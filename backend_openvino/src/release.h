// Read a release from disk and hold every byte against its manifest.
//
// The rules are those of `policyctl.integrity.read_release`: no link is followed, each file is opened
// once, nothing may be missing, added or changed, and the manifest itself must have the digest that
// config.pbtxt pins. The bytes that are handed out are the bytes that were hashed, so nothing that
// changes on disk afterwards can be served. Whether the manifest's text is canonical need not be asked
// here: only the published text has the pinned digest.
#pragma once

#include <map>
#include <set>
#include <string>

struct Release {
  std::string model;
  std::string version;  // semantic
  std::string digest;   // of the manifest
  std::map<std::string, std::string> contents;
};

// Throws Refused, which names the first file that is wrong and how.
Release read_release(const std::string& folder, const std::string& pinned, const std::set<std::string>& keep);
