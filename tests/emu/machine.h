// The emulated machine: blocks of fibres, the order they run in, and what a launch was told to check.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulator.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#include "fibre.h"

namespace emu {

enum class Order { kForward, kReverse, kRandom, kWarpRandom };

struct Options {
  uint64_t seed = 0;
  Order order = Order::kForward;
  int resident_blocks = 1;   // blocks whose threads take turns
  double preemption = 0;     // probability of a switch at a load or store; needs the hooks
  bool check_races = false;  // needs the hooks
  bool count_traffic = false;
};

struct Statistics {
  uint64_t switches = 0, barriers = 0, collectives = 0, matrix_products = 0, accesses = 0, blocks = 0, races = 0,
           launches = 0;
};

struct Block;

struct AsyncCopy {
  void* to;
  const void* from;
  int valid;
  unsigned group;
};

struct Thread {
  ThreadView view{};
  Fibre fibre;
  Block* block = nullptr;
  uint32_t barriers = 0, warp_barriers = 0;  // passed so far: the epochs of the race detector
  bool done = false;
  const char* waiting = nullptr;
  int line = 0;
  std::vector<AsyncCopy> copies;
  unsigned copy_group = 0;
  std::unordered_map<const void*, uint32_t> executions;  // of each load and store, to line lanes up
};

struct Meeting {  // lanes at a warp's collective
  unsigned mask, arrived;
  Kind kind;
  int line;
  std::array<void*, 32> posted;
};

// Who last wrote a byte and which two threads read it since, each with the epochs of that time. Threads are counted
// from 1. Without padding: neighbours in equal states are compared whole.
struct Shadow {
  struct Access {
    uint64_t thread : 12 = 0, barriers : 26 = 0, warp_barriers : 26 = 0;
  };
  Access write, read[2];
  uint32_t block = 0;  // that wrote last, from 1; 0: none
  uint32_t clock = 0;  // of that write
  uint32_t epoch = 0;  // that all of this is of: the launch's, or of shared memory the block's
  uint16_t initialised = false;
  uint16_t atomic = false;  // that write was; more than one thread's: thread is kSeveral
  static constexpr uint32_t kSeveral = (1u << 12) - 1;
};
static_assert(sizeof(Shadow) == 40);

struct Request {  // the k-th execution of one load or store by the lanes of a warp
  int bytes = 0;
  bool shared = false, write = false;
  unsigned mask = 0;
  std::array<uint64_t, 32> address{};
};

struct Fence {  // it covers what its thread did, and what a barrier put before it
  uint32_t clock = 0;
  Shadow::Access by;
};

struct Block {
  Fence fenced;                 // its last one
  std::vector<Fence> acquired;  // by number of block: what was published of it at this one's last atomic operation
  dim3 index;
  unsigned number = 0, n_threads = 0, alive = 0, arrived = 0;
  bool running = false;
  int line = -1;  // of the barrier that threads wait at
  int any = 0, all = 1, count = 0;
  int result_any = 0, result_all = 0, result_count = 0;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<std::vector<Meeting>> meetings;  // by warp
  std::vector<unsigned> exited;                // by warp: the lanes that have
  char* shared = nullptr;
  size_t shared_capacity = 0;
  std::vector<Shadow> shadow;
  uint32_t epoch = 0;  // of the shadow: what others left in it is void
  std::map<std::tuple<const void*, unsigned, uint32_t>, Request> requests;
};

struct Buffer {  // device memory, with red zones on both sides
  uintptr_t begin, end;
  size_t red_zone;  // 0 where it isn't the emulator's own
  std::vector<Shadow> shadow;
};

struct Traffic {
  uint64_t requests = 0, units = 0, ideal = 0;
  int bytes = 0;
  bool shared = false, write = false;
};

constexpr size_t kRedZone = 4096;

struct Machine {
  Options options;
  int left_out = 0;
  bool pessimistic = false;
  Statistics statistics;
  std::string error;  // of the last failed launch; nothing is launched until it is taken
  std::vector<std::string> races;

  const char* kernel = "";
  const void* place = nullptr;  // in the kernel, of the collective that is being combined
  dim3 grid, block_size;
  size_t shared_bytes = 0;
  const std::function<void()>* body = nullptr;
  std::vector<unsigned> block_order;
  size_t next_block = 0;

  Fibre host;
  Thread* running = nullptr;
  std::vector<std::unique_ptr<Block>> resident;
  std::deque<Thread*> ready;
  uint64_t random_state = 1;
  int in_atomic = 0;
  uint32_t epoch = 0;            // of the launch: what shadows know of others is void
  uint32_t last_epoch = 0;       // numbers are given once
  uint32_t clock = 0;            // of fences
  std::vector<Fence> published;  // by number of block: the last fence before its last atomic operation

  std::map<uintptr_t, Buffer> buffers;  // by the beginning of the lower red zone
  std::map<const void*, Traffic> traffic;
};
extern Machine machine;

uint64_t random_number();
void make_ready(std::vector<Thread*>& threads);
void switch_away(bool leaving = false);           // to whoever is ready, or to the host
void wait(const char* what, int line);            // until made ready again
[[noreturn]] void fail(const std::string& what);  // ends the launch

// memory.cpp
void note_access(const void* p, size_t bytes, bool write, const void* place);
void note_shared(Thread& thread, const void* p, size_t bytes, bool write, const void* place);
// Bank conflicts of eight rows of 16 bytes, which a warp reads as one matrix.
void count_matrix_load(const void* const (&rows)[8]);
Buffer* buffer_of(const void* p);
size_t place_offset(const void* place);  // in its library, of the instruction before it: what addr2line takes
bool in_shared(const Block& block, const void* p, size_t bytes);
void begin_block_memory(Block& block);
void end_block_memory(Block& block);

}  // namespace emu
