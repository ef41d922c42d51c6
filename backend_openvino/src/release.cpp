#include "release.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "errors.h"
#include "json.h"
#include "sha256.h"

namespace {

constexpr const char* kManifest = "manifest.json";
constexpr int kDepth = 32;
constexpr size_t kChunk = 1 << 20;
constexpr size_t kManifestLimit = 16 << 20;

struct Entry {
  std::string path;
  int64_t size = 0;
  std::string digest;
};

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  int get() const { return number_; }
  int release() { return std::exchange(number_, -1); }

 private:
  int number_;
};

// Opens a name without following a link; O_NONBLOCK because a FIFO in a file's place must not hang.
int open_plainly(int folder, const char* name, const std::string& shown) {
  const int found = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (found >= 0) return found;
  if (errno == ELOOP) throw Refused(shown + " is a symbolic link");
  if (errno == ENXIO) throw Refused(shown + " is neither a file nor a folder");
  throw Refused(shown + ": cannot be read (" + std::strerror(errno) + ")");
}

// Reads all of a file past its hasher; keeps the bytes where `content` is given.
Entry read_file(int file, const std::string& path, const std::string& shown, std::string* content,
                size_t limit = SIZE_MAX) {
  Sha256 hasher;
  Entry entry{path, 0, ""};
  std::vector<char> chunk(kChunk);
  for (;;) {
    const ssize_t count = read(file, chunk.data(), chunk.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw Refused(shown + ": cannot be read (" + std::strerror(errno) + ")");
    if (count == 0) break;
    entry.size += count;
    if (static_cast<size_t>(entry.size) > limit) throw Refused(shown + " is too large");
    hasher.add(chunk.data(), count);
    if (content) content->append(chunk.data(), count);
  }
  entry.digest = hasher.digest();
  return entry;
}

class Walk {
 public:
  Walk(const std::map<std::string, Entry>& listed, const std::set<std::string>& keep, Release& release)
      : listed_(listed), keep_(keep), release_(release) {}

  std::vector<Entry> found;

  void folder(Descriptor here, const std::string& prefix, const std::string& shown, int depth) {
    if (depth > kDepth) throw Refused(shown + ": folders nested too deep");
    for (const std::string& name : names(here, shown)) {
      const std::string path = prefix + name, full = shown + "/" + name;
      if (path == kManifest) continue;  // read and pinned already
      Descriptor file(open_plainly(here.get(), name.c_str(), full));
      struct stat status;
      if (fstat(file.get(), &status) != 0) throw Refused(full + ": cannot be read");
      if (S_ISDIR(status.st_mode)) {
        folder(Descriptor(file.release()), path + "/", full, depth + 1);
      } else if (!S_ISREG(status.st_mode)) {
        throw Refused(full + " is neither a file nor a folder");
      } else if (const auto entry = listed_.find(path);
                 entry == listed_.end() || entry->second.size != status.st_size) {
        found.push_back({path, status.st_size, ""});  // reading it would tell nothing more, and a sparse one costs
      } else {
        std::string* content = keep_.count(path) ? &release_.contents[path] : nullptr;
        found.push_back(read_file(file.get(), path, full, content, entry->second.size));
      }
    }
  }

 private:
  static std::vector<std::string> names(const Descriptor& here, const std::string& shown) {
    Descriptor copy(fcntl(here.get(), F_DUPFD_CLOEXEC, 0));
    std::unique_ptr<DIR, int (*)(DIR*)> listing(fdopendir(copy.get()), closedir);
    if (!listing) throw Refused(shown + ": cannot be listed");
    copy.release();  // closedir closes it
    std::vector<std::string> names;
    while (const dirent* entry = readdir(listing.get()))
      if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0)
        names.emplace_back(entry->d_name);
    if (names.empty()) throw Refused(shown + " is an empty folder, which no manifest lists");
    std::sort(names.begin(), names.end());
    return names;
  }

  const std::map<std::string, Entry>& listed_;
  const std::set<std::string>& keep_;
  Release& release_;
};

std::map<std::string, Entry> entries_of(const Json& manifest) {
  if (manifest.at("schema").integer() != 1 || manifest.members.size() != 4)
    throw Refused("manifest: this version reads schema 1 with model, release and files");
  std::map<std::string, Entry> entries;
  for (const Json& item : manifest.at("files").array()) {
    Entry entry{item.at("path").string(), item.at("size_bytes").integer(), item.at("digest").string()};
    if (!entries.emplace(entry.path, entry).second) throw Refused("manifest: " + entry.path + " is listed twice");
  }
  if (entries.empty()) throw Refused("manifest: it lists no file");
  return entries;
}

// Every way in which the files found differ from those listed, as sentences.
std::string differences(std::map<std::string, Entry> listed, const std::vector<Entry>& found) {
  std::string problems;
  const auto add = [&](const std::string& sentence) { problems += (problems.empty() ? "" : "; ") + sentence; };
  for (const Entry& have : found) {
    const auto at = listed.find(have.path);
    if (at == listed.end()) {
      add(have.path + " is not in the manifest");
      continue;
    }
    const Entry& want = at->second;
    if (have.size != want.size)
      add(have.path + " has " + std::to_string(have.size) + " bytes, the manifest says " +
          std::to_string(want.size));
    else if (have.digest != want.digest)
      add(have.path + " is " + have.digest + ", the manifest says " + want.digest);
    listed.erase(at);
  }
  for (const auto& missing : listed) add(missing.first + " is missing");
  return problems;
}

}  // namespace

Release read_release(const std::string& folder, const std::string& pinned, const std::set<std::string>& keep) {
  Release release;
  Descriptor here(open_plainly(AT_FDCWD, folder.c_str(), folder));
  const std::string shown = folder + "/" + kManifest;
  std::string text;
  {
    Descriptor file(open_plainly(here.get(), kManifest, shown));
    struct stat status;
    if (fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) throw Refused(shown + " is not a plain file");
    release.digest = read_file(file.get(), kManifest, shown, &text, kManifestLimit).digest;
  }
  if (release.digest != pinned)
    throw Refused(shown + " is " + release.digest + ", expected " + pinned +
                  ": it was changed after publishing; restore the folder, or publish a new release");
  const Json manifest = parse_json(text);
  release.model = manifest.at("model").string();
  release.version = manifest.at("release").string();
  const auto listed = entries_of(manifest);
  Walk walk(listed, keep, release);
  walk.folder(Descriptor(here.release()), "", folder, 0);
  if (const std::string problems = differences(listed, walk.found); !problems.empty())
    throw Refused(folder + ": " + problems + "; restore the files, or roll back to another release");
  for (const std::string& path : keep)
    if (!release.contents.count(path)) throw Refused(folder + ": " + path + " is not part of this release");
  return release;
}
