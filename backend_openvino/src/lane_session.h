// One client of the local lane: its connection, the memory that it shares with the server, and its requests.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "lane_contract.h"
#include "lane_message.h"
#include "lane_triton.h"

namespace lane {

struct Flight;

class Session : public std::enable_shared_from_this<Session> {
 public:
  // Takes over the connection `socket`. `request_bytes` is the most that a client's shared memory may have.
  Session(TRITONSERVER_Server* server, int socket, std::uint64_t request_bytes);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void run();    // until the client has gone, or has broken the rules
  void end();    // ends `run` from another thread
  void leave();  // after `run`, and after the last `end`: lets go of memory and connection, though a request is not over

 private:
  friend struct Flight;

  void share(std::uint64_t bytes);
  void answer_request(std::string_view message);
  void ask(const Request& request);
  void describe(const Request& request);
  void describe_contract(const Request& request, const Contract& contract);
  // An answer allows the client's next request, so it is the last thing that happens to one.
  void refuse(std::uint32_t code, std::string_view text, std::string_view id = {}, std::uint64_t needed = 0);
  void send(const std::string& message, int file = -1);

  TRITONSERVER_Server* const server_;
  const int socket_;
  const std::uint64_t request_bytes_;
  std::uint64_t region_bytes_ = 0;
  char* region_ = nullptr;
  bool left_ = false;
  std::mutex leaving_;  // held by an answer, which needs region_ and socket_, and by `leave`
  std::atomic<bool> busy_{false};  // a request is under way
  std::mutex lock_;
  Flight* flight_ = nullptr;  // whose request Triton has not released yet; guarded by lock_
};

}  // namespace lane
