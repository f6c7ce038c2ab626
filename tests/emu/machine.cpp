// Launches, the order of threads, barriers, the meetings of a warp's lanes.
#include "machine.h"

#include <algorithm>
#include <cfenv>
#include <cstdlib>
#include <cstring>

namespace emu {

Machine machine;
const ThreadView* current = nullptr;

int left_out() { return machine.left_out; }

float approximated(float exact) {
  if (!machine.pessimistic) return exact;
  uint32_t bits;
  std::memcpy(&bits, &exact, sizeof bits);
  return exact * (1.0f + (bits % 2 == 0 ? 0x1p-22f : -0x1p-22f));
}

uint64_t random_number() {
  uint64_t& x = machine.random_state;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return x;
}

namespace {

std::string place(const Thread& thread) {
  return "block " + std::to_string(thread.block->number) + ", thread " + std::to_string(thread.view.number);
}

Thread* next_thread() {
  auto& ready = machine.ready;
  if (machine.options.order == Order::kRandom) std::swap(ready.front(), ready[random_number() % ready.size()]);
  Thread* thread = ready.front();
  ready.pop_front();
  return thread;
}

void run(Thread* from, Thread* to, bool leaving) {
  machine.running = to;
  current = to == nullptr ? nullptr : &to->view;
  machine.statistics.switches++;
  Fibre::switch_to(from == nullptr ? machine.host : from->fibre, to == nullptr ? machine.host : to->fibre, leaving);
}

void release_barrier_if_complete(Block& block) {
  if (block.alive == 0 || block.arrived != block.alive) return;
  static std::vector<Thread*> threads;
  threads.clear();
  for (auto& thread : block.threads) {
    if (thread->done) continue;
    thread->barriers++;
    threads.push_back(thread.get());
  }
  block.result_any = block.any;
  block.result_all = block.all;
  block.result_count = block.count;
  block.arrived = 0;
  block.line = -1;
  block.any = block.count = 0;
  block.all = 1;
  machine.statistics.barriers++;
  make_ready(threads);
}

void thread_main() {
  Fibre::entered();
  (*machine.body)();
  Thread& thread = *machine.running;
  Block& block = *thread.block;
  if (!thread.copies.empty()) fail("a thread exits with asynchronous copies it never waited for");
  for (const Meeting& meeting : block.meetings[thread.view.warp])
    if (meeting.mask >> thread.view.lane & 1)
      fail("a lane exits that others wait for at line " + std::to_string(meeting.line));
  thread.done = true;
  block.exited[thread.view.warp] |= 1u << thread.view.lane;
  block.alive--;
  release_barrier_if_complete(block);
  switch_away(true);
  abort();
}

void begin_block(Block& block) {
  Machine& m = machine;
  const unsigned number = m.block_order[m.next_block++];
  block.number = number;
  block.index = dim3(number % m.grid.x, number / m.grid.x % m.grid.y, number / m.grid.x / m.grid.y);
  block.running = true;
  block.fenced = {};
  block.acquired.clear();
  block.n_threads = block.alive = m.block_size.x * m.block_size.y * m.block_size.z;
  block.arrived = 0;
  block.line = -1;
  block.any = block.count = 0;
  block.all = 1;
  block.meetings.assign((block.n_threads + 31) / 32, {});
  block.exited.assign(block.meetings.size(), 0);
  begin_block_memory(block);
  std::vector<Thread*> threads;
  for (unsigned t = 0; t < block.n_threads; t++) {
    if (block.threads.size() <= t) block.threads.push_back(std::make_unique<Thread>());
    Thread& thread = *block.threads[t];
    const dim3 size = m.block_size;
    thread.view = {
        dim3(t % size.x, t / size.x % size.y, t / size.x / size.y), block.index, size, m.grid, t, t % 32, t / 32};
    thread.block = &block;
    thread.barriers = thread.warp_barriers = 0;
    thread.done = false;
    thread.waiting = nullptr;
    thread.copies.clear();
    thread.copy_group = 0;
    thread.executions.clear();
    thread.fibre.prepare(&thread_main);
    threads.push_back(&thread);
  }
  block.threads.resize(block.n_threads);
  make_ready(threads);
}

std::string deadlock() {
  std::string what = "deadlock:";
  int shown = 0;
  for (const auto& block : machine.resident)
    for (const auto& thread : block->threads)
      if (block->alive > 0 && !thread->done && thread->waiting != nullptr && shown++ < 6)
        what += " [" + place(*thread) + " at " + thread->waiting + ", line " + std::to_string(thread->line) + "]";
  return what;
}

}  // namespace

void make_ready(std::vector<Thread*>& threads) {
  if (machine.options.order == Order::kReverse) std::reverse(threads.begin(), threads.end());
  if (machine.options.order == Order::kWarpRandom) {  // warps in random order, lanes in theirs
    const uint64_t key = random_number();
    auto rank = [key](const Thread* thread) {
      uint64_t x = (thread->view.warp + 1) * 0x9e3779b97f4a7c15u ^ key;
      x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9u;
      return x ^ x >> 32;
    };
    std::stable_sort(threads.begin(), threads.end(), [&](Thread* a, Thread* b) { return rank(a) < rank(b); });
  }
  for (Thread* thread : threads) {
    thread->waiting = nullptr;
    machine.ready.push_back(thread);
  }
}

void switch_away(bool leaving) {
  Thread* from = machine.running;
  if (machine.ready.empty() || (leaving && from->block->alive == 0)) return run(from, nullptr, leaving);
  Thread* to = next_thread();
  if (to != from) run(from, to, leaving);
}

void wait(const char* what, int line) {
  machine.running->waiting = what;
  machine.running->line = line;
  switch_away();
}

// Nothing unwinds: the fibres are abandoned where they are, and their stacks used again.
void fail(const std::string& what) {
  machine.error = what + " (kernel " + machine.kernel + ", " + place(*machine.running) + ")";
  run(machine.running, nullptr, true);
  abort();
}

void barrier(int line, int predicate, int* any, int* all, int* count) {
  Block& block = *machine.running->block;
  if (block.line >= 0 && block.line != line)
    fail("divergent __syncthreads: lines " + std::to_string(block.line) + " and " + std::to_string(line));
  block.line = line;
  block.arrived++;
  block.any |= predicate != 0;
  block.all &= predicate != 0;
  block.count += predicate != 0;
  machine.running->waiting = "__syncthreads";
  release_barrier_if_complete(block);
  wait("__syncthreads", line);
  if (any != nullptr) *any = block.result_any;
  if (all != nullptr) *all = block.result_all;
  if (count != nullptr) *count = block.result_count;
}

void collective(unsigned mask, Kind kind, int line, void* posted, Combine combine) {
  Thread& thread = *machine.running;
  Block& block = *thread.block;
  const unsigned first = thread.view.warp * 32, lanes = std::min(32u, block.n_threads - first);
  const unsigned full = lanes == 32 ? ~0u : (1u << lanes) - 1;
  mask &= full;
  if (!(mask >> thread.view.lane & 1)) fail("the caller's lane is not in its own mask, line " + std::to_string(line));
  if ((mask & block.exited[thread.view.warp]) != 0)
    fail("the mask names a lane that has exited, line " + std::to_string(line));
  auto& meetings = block.meetings[thread.view.warp];
  size_t at = 0;
  while (at < meetings.size() && meetings[at].mask != mask) at++;  // some lanes may meet before all do elsewhere
  if (at == meetings.size()) meetings.push_back({mask, 0, kind, line, {}});
  Meeting& meeting = meetings[at];
  if (meeting.kind != kind || meeting.line != line)
    fail("lanes of a warp meet in different places: lines " + std::to_string(meeting.line) + " and " +
         std::to_string(line));
  meeting.arrived |= 1u << thread.view.lane;
  meeting.posted[thread.view.lane] = posted;
  if (meeting.arrived != mask) return wait("a warp's collective", line);
  machine.statistics.collectives++;
  machine.place = __builtin_return_address(0);
  if (combine != nullptr) combine(meeting.posted.data(), mask);
  meetings.erase(meetings.begin() + long(at));
  {
    static std::vector<Thread*> threads;
    threads.clear();
    for (unsigned lane = 0; lane < lanes; lane++) {
      if (!(mask >> lane & 1)) continue;
      Thread& other = *block.threads[first + lane];
      if (kind == Kind::kWarpBarrier && mask == full) other.warp_barriers++;
      threads.push_back(&other);
    }
    make_ready(threads);
  }
  switch_away();  // the others may go first
}

void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body, const char* name) {
  Machine& m = machine;
  if (!m.error.empty()) return;  // as on a device: an error stays until it is taken
  const uint64_t n_threads = uint64_t(block.x) * block.y * block.z;
  if (n_threads == 0 || n_threads > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 ||
      grid.z > 65535 || grid.x > 0x7fffffffu || shared_bytes > 227 * 1024) {
    m.error = std::string("invalid launch configuration (kernel ") + name + ")";
    return;
  }
  m.statistics.launches++;
  m.kernel = name;
  m.grid = grid;
  m.block_size = block;
  m.shared_bytes = shared_bytes;
  m.body = &body;
  m.ready.clear();
  m.races.clear();
  m.in_atomic = 0;
  m.random_state = m.options.seed * 0x9e3779b97f4a7c15u + 0x1234567;
  random_number();
  m.block_order.resize(size_t(grid.x) * grid.y * grid.z);
  for (size_t i = 0; i < m.block_order.size(); i++) m.block_order[i] = unsigned(i);
  if (m.options.order == Order::kReverse) std::reverse(m.block_order.begin(), m.block_order.end());
  if (m.options.order == Order::kRandom || m.options.order == Order::kWarpRandom)
    for (size_t i = m.block_order.size(); i > 1; i--)
      std::swap(m.block_order[i - 1], m.block_order[random_number() % i]);
  m.next_block = 0;
  m.clock = 0;
  m.published.assign(m.block_order.size(), {});
  m.epoch = ++m.last_epoch;
  const size_t n_resident = std::min(size_t(std::max(1, m.options.resident_blocks)), m.block_order.size());
  while (m.resident.size() < n_resident) m.resident.push_back(std::make_unique<Block>());
  for (auto& idle : m.resident) {
    idle->running = false;
    idle->alive = 0;
  }
  for (size_t i = 0; i < n_resident; i++) begin_block(*m.resident[i]);
  std::fenv_t of_host;  // which may flush subnormal numbers, say
  std::fegetenv(&of_host);
  std::fesetenv(FE_DFL_ENV);
  while (!m.ready.empty()) {
    run(nullptr, next_thread(), false);
    if (!m.error.empty()) break;
    for (size_t i = 0; i < n_resident; i++) {
      Block& finished = *m.resident[i];
      if (!finished.running || finished.alive > 0) continue;
      end_block_memory(finished);
      finished.running = false;
      m.statistics.blocks++;
      if (m.next_block < m.block_order.size()) begin_block(finished);
    }
  }
  std::fesetenv(&of_host);
  m.running = nullptr;
  current = nullptr;
  m.body = nullptr;
  if (m.error.empty() && std::any_of(m.resident.begin(), m.resident.end(), [](const auto& b) { return b->alive > 0; }))
    m.error = deadlock() + " (kernel " + name + ")";
  if (m.error.empty() && !m.races.empty())
    m.error = std::to_string(m.statistics.races) + " race reports (kernel " + name + "), the first: " + m.races[0];
}

}  // namespace emu
