// The local lane: a front end of tritonserver for clients on the same machine, next to gRPC and HTTP.
//
// This library is preloaded into tritonserver, and only where the settings ask for the lane. It stands in front of the
// two functions by which tritonserver makes and deletes its server. So it knows the server, and gives it requests through
// Triton's C API: whatever Triton does with a request, it does with these. It offers inference, configurations and
// statistics, which Triton gives to everybody, and nothing that changes what is served.
//
// A client connects to a UNIX socket that belongs to the server's user, and must be of that user itself. Messages go
// through the connection, and its end is the end of the session. Tensors go through memory that the server makes.
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <system_error>
#include <thread>

#include "lane_session.h"

namespace lane {
namespace {

constexpr int kExit = 70;  // EX_SOFTWARE
constexpr int kMostSessions = 64;
constexpr int kBacklog = 64;
constexpr auto kPause = std::chrono::milliseconds(100);
constexpr auto kPatience = std::chrono::seconds(5);

struct Front {
  TRITONSERVER_Server* server = nullptr;
  std::string path;
  struct stat at {};
  int listener = -1;
  std::uint64_t request_bytes = 64 << 20;
  std::mutex lock;
  std::condition_variable fewer;
  std::vector<Session*> running;  // guarded by lock; each is in `run`, or about to be
  int threads = 0;                // one for each client that is connected; guarded by lock
  bool stopping = false;          // guarded by lock
};

// Never deleted: threads use it until the process has ended.
Front* front = nullptr;

[[noreturn]] void give_up(const char* what) {
  // A server that is believed to have a lane must not run without.
  std::fprintf(stderr, "error: the local lane cannot %s at %s: %s\n", what, front->path.c_str(), std::strerror(errno));
  _exit(kExit);
}

void listen_at(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // Made under another name, and renamed once it listens: an old socket of a killed server is replaced in one step.
  const auto made = path + "." + std::to_string(getpid());
  errno = ENAMETOOLONG;
  if (made.size() >= sizeof address.sun_path) give_up("listen");
  std::copy(made.begin(), made.end(), address.sun_path);
  // Only sockets are replaced: anything else came there since policyctl looked.
  for (const auto& name : {made, path}) {
    struct stat there {};
    if (lstat(name.c_str(), &there) != 0) continue;
    errno = EEXIST;
    if (!S_ISSOCK(there.st_mode)) give_up("listen");
  }
  unlink(made.c_str());
  front->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (front->listener < 0 || bind(front->listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      chmod(made.c_str(), S_IRUSR | S_IWUSR) != 0 || listen(front->listener, kBacklog) != 0 ||
      stat(made.c_str(), &front->at) != 0 || rename(made.c_str(), path.c_str()) != 0)
    give_up("listen");
}

bool is_ours(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

void turn_away(int socket, Code code, const std::string& why) {
  Head head;
  head.code = code;
  Writer writer;
  write_head(writer, head, {});
  writer.rest(why);
  ::send(socket, writer.message().data(), writer.message().size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  close(socket);
}

void serve(std::shared_ptr<Session> session) {
  session->run();
  {
    const std::lock_guard<std::mutex> held(front->lock);
    front->running.erase(std::find(front->running.begin(), front->running.end(), session.get()));
  }
  session->leave();
  session.reset();
  const std::lock_guard<std::mutex> held(front->lock);
  --front->threads;
  front->fewer.notify_all();
}

int clients() {
  const std::lock_guard<std::mutex> held(front->lock);
  return front->threads;
}

void begin_session(int socket) {
  if (!is_ours(socket)) return turn_away(socket, kOtherUser, "the lane is for the user of the server alone");
  // A client that has gone does not count, even if the model hangs that it asked.
  if (clients() >= kMostSessions)
    return turn_away(socket, kTooManySessions, std::to_string(kMostSessions) + " sessions of the lane are open, more cannot be");
  auto session = std::make_shared<Session>(front->server, socket, front->request_bytes);
  const std::lock_guard<std::mutex> held(front->lock);
  if (front->stopping) return;
  front->running.reserve(front->running.size() + 1);
  std::thread(serve, session).detach();
  front->running.push_back(session.get());
  ++front->threads;
}

void accept_clients() {
  for (;;) {
    const int socket = accept4(front->listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket >= 0) {
      try {
        begin_session(socket);
      } catch (const std::exception&) {
        // No thread or no memory for it: the connection is closed, or was closed with its session.
      }
      continue;
    }
    {
      const std::lock_guard<std::mutex> held(front->lock);
      if (front->stopping) return;
    }
    if (errno != EINTR && errno != ECONNABORTED) std::this_thread::sleep_for(kPause);  // no descriptors, for a while
  }
}

void open_lane(TRITONSERVER_Server* server, const char* path) {
  front = new Front;
  front->server = server;
  front->path = path;
  if (const char* bytes = std::getenv("TRITON_GUARD_REQUEST_BYTES"))
    front->request_bytes = std::strtoull(bytes, nullptr, 10);
  listen_at(front->path);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for tritonserver's own threads; ours inherit this
  try {
    std::thread(accept_clients).detach();
  } catch (const std::system_error&) {
    give_up("start");
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// Whether every session has ended.
bool close_lane() {
  struct stat now {};
  if (stat(front->path.c_str(), &now) == 0 && now.st_ino == front->at.st_ino && now.st_dev == front->at.st_dev)
    unlink(front->path.c_str());
  std::unique_lock<std::mutex> held(front->lock);
  front->stopping = true;
  shutdown(front->listener, SHUT_RDWR);
  for (auto* session : front->running) session->end();
  return front->fewer.wait_for(held, kPatience, [] { return front->threads == 0; });
}

}  // namespace
}  // namespace lane

extern "C" {

__attribute__((visibility("default"))) TRITONSERVER_Error* TRITONSERVER_ServerNew(TRITONSERVER_Server** server,
                                                                                   void* options) {
  static const auto next =
      reinterpret_cast<TRITONSERVER_Error* (*)(TRITONSERVER_Server**, void*)>(dlsym(RTLD_NEXT, "TRITONSERVER_ServerNew"));
  auto* const error = next(server, options);
  const char* path = std::getenv("TRITON_LANE_SOCKET");
  if (error == nullptr && path != nullptr && lane::front == nullptr) lane::open_lane(*server, path);
  return error;
}

__attribute__((visibility("default"))) TRITONSERVER_Error* TRITONSERVER_ServerDelete(TRITONSERVER_Server* server) {
  static const auto next =
      reinterpret_cast<TRITONSERVER_Error* (*)(TRITONSERVER_Server*)>(dlsym(RTLD_NEXT, "TRITONSERVER_ServerDelete"));
  const bool ours = lane::front != nullptr && lane::front->server == server;
  // A session that does not end still uses the server, which the end of the process takes along.
  if (ours && !lane::close_lane()) return nullptr;
  return next(server);
}

}  // extern "C"
