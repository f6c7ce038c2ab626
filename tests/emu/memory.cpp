// Every load and store of a kernel: bounds, races, reads of what nobody wrote, sectors and bank conflicts.
//
// The kernel files are compiled with -fsanitize=thread and linked without its runtime: the compiler calls the hooks at
// the end of this file for each load and store of the unmodified kernel. This file itself must be compiled without it.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "machine.h"

namespace emu {
namespace {

std::string where(const void* place) {
  if (place == nullptr) return "a warp's matrix load or an asynchronous copy";
  char text[32];
  std::snprintf(text, sizeof text, "pc +0x%zx", place_offset(place));
  return text;
}

// A stretch of memory's shadow, as an access finds it.
struct Place {
  const char* memory;  // its name
  Shadow* first;       // of the access
  size_t offset;       // of that byte in the memory
  uint32_t epoch;
  bool keeps;  // what was written in earlier epochs
  const void* code;
};

void report(const char* what, const Thread& thread, const Place& place, uint32_t other, const Shadow& byte) {
  machine.statistics.races++;
  if (machine.races.size() >= 8) return;
  const size_t offset = place.offset + size_t(&byte - place.first);
  std::string text = std::string(what) + ", " + place.memory + " byte " + std::to_string(offset) + ", block " +
                     std::to_string(thread.block->number) + ", thread " + std::to_string(thread.view.number);
  if (other == Shadow::kSeveral)
    text += " and several others";
  else if (other != 0)
    text += " and thread " + std::to_string(other - 1);
  machine.races.push_back(text + ", " + where(place.code));
}

Place shared_place(Block& block, const void* p, const void* code) {
  const auto offset = size_t(static_cast<const char*>(p) - block.shared);
  return {"shared", block.shadow.data() + offset, offset, block.epoch, false, code};
}
Place global_place(Buffer& buffer, const void* p, const void* code) {
  const size_t offset = uintptr_t(p) - buffer.begin;
  return {"global", buffer.shadow.data() + offset, offset, machine.epoch, true, code};
}

// A launch comes after everything that those before it did; a block finds nothing in its shared memory.
void of_this_epoch(Shadow& byte, const Place& place) {
  if (byte.epoch == place.epoch) return;
  const bool initialised = place.keeps && byte.initialised;
  byte = {};
  byte.epoch = place.epoch;
  byte.initialised = initialised;
}

// Whether an earlier access of the same block comes before what this thread does now, by a barrier of the block or of
// the warp. Shuffles do not order memory.
bool ordered(const Shadow::Access& access, const Thread& thread) {
  const auto other = unsigned(access.thread);
  if (other == 0 || other == thread.view.number + 1 || access.barriers < thread.barriers) return true;
  return (other - 1) / 32 == thread.view.warp && access.warp_barriers < thread.warp_barriers;
}

// Whether a fence of the block that wrote the byte comes after that write.
bool covers(const Fence& fence, const Shadow& byte) {
  const Shadow::Access& write = byte.write;
  if (fence.clock <= byte.clock) return false;
  if (write.thread == fence.by.thread || write.barriers < fence.by.barriers) return true;
  return (write.thread - 1) / 32 == (fence.by.thread - 1) / 32 && write.warp_barriers < fence.by.warp_barriers;
}

// False after a report: one report per access will do.
bool note_byte(Shadow& byte, Thread& thread, bool write, const Place& place) {
  of_this_epoch(byte, place);
  const uint32_t block = thread.block->number + 1;
  const Shadow::Access mine{thread.view.number + 1, thread.barriers, thread.warp_barriers};
  const bool same_block = byte.block == block;
  const auto& acquired = thread.block->acquired;
  const bool elsewhere = byte.block != 0 && !same_block;
  if (elsewhere && (acquired.empty() || !covers(acquired[byte.block - 1], byte))) {
    report(write ? "two blocks write" : "a read of what another block writes", thread, place, 0, byte);
    return false;
  }
  if (!byte.initialised && !write) {
    byte.initialised = true;
    report("a read of what nobody wrote", thread, place, 0, byte);
    return false;
  }
  if (same_block && !ordered(byte.write, thread)) {
    report(write ? "a write races with a write" : "a read races with a write", thread, place, byte.write.thread, byte);
    return false;
  }
  if (!write) {
    if (elsewhere) return true;  // ordered by fences and atomics; who reads it is not kept
    auto& [first, second] = byte.read;
    const bool use_first = first.thread == 0 || first.thread == mine.thread ||
                           (unsigned(first.thread - 1) / 32 == thread.view.warp && second.thread != 0);
    (use_first ? first : second) = mine;
    return true;
  }
  for (const Shadow::Access& read : byte.read)
    if (same_block && !ordered(read, thread)) {
      report("a write races with a read", thread, place, read.thread, byte);
      return false;
    }
  byte.write = mine;
  byte.read[0] = byte.read[1] = {};
  byte.block = block;
  byte.clock = machine.clock;
  byte.initialised = true;
  byte.atomic = false;
  return true;
}

// The bytes of an access. Most have neighbours in the same state, which the same access changes in the same way.
void note_bytes(const Place& place, size_t bytes, Thread& thread, bool write) {
  Shadow *at = place.first, *end = at + bytes;
  while (at < end) {
    const Shadow before = *at;
    if (!note_byte(*at, thread, write, place)) return;
    const Shadow after = *at;
    for (at++; at < end && std::memcmp(at, &before, sizeof before) == 0; at++) *at = after;
  }
}

// Atomic operations on shared memory race with everything but each other.
bool note_atomic(Shadow& byte, Thread& thread, const Place& place) {
  of_this_epoch(byte, place);
  const bool after = ordered(byte.write, thread);
  const bool clean = (after || byte.atomic) && ordered(byte.read[0], thread) && ordered(byte.read[1], thread);
  if (!clean) report("an atomic operation races", thread, place, after ? 0 : byte.write.thread, byte);
  const bool several = !after && byte.atomic;
  byte.write = {several ? Shadow::kSeveral : thread.view.number + 1, thread.barriers, thread.warp_barriers};
  byte.read[0] = byte.read[1] = {};
  byte.initialised = byte.atomic = true;
  byte.block = thread.block->number + 1;
  return clean;
}

void note_request(Thread& thread, uint64_t address, int bytes, bool shared, bool write, const void* place) {
  Request& request = thread.block->requests[{place, thread.view.warp, thread.executions[place]++}];
  request.bytes = bytes;
  request.shared = shared;
  request.write = write;
  request.mask |= 1u << thread.view.lane;
  request.address[thread.view.lane] = address;
}

// Wavefronts of 32 banks of 4 bytes; wider accesses go by halves and quarters of the warp.
void count_banks(const Request& request, Traffic& traffic) {
  const int words = std::max(1, request.bytes / 4), lanes = std::max(1, 32 / words);
  for (int first = 0; first < 32; first += lanes) {
    std::array<std::vector<uint64_t>, 32> banks;
    size_t most = 0;
    bool any = false;
    for (int lane = first; lane < first + lanes; lane++) {
      if (!(request.mask >> lane & 1)) continue;
      any = true;
      for (int word = 0; word < words; word++) {
        const uint64_t address = request.address[size_t(lane)] / 4 + uint64_t(word);
        auto& bank = banks[address % 32];
        if (std::find(bank.begin(), bank.end(), address) == bank.end()) bank.push_back(address);
        most = std::max(most, bank.size());
      }
    }
    traffic.units += most;
    traffic.ideal += any;
  }
}

void count_sectors(const Request& request, Traffic& traffic) {
  std::vector<uint64_t> sectors;
  std::vector<uint64_t> bytes;  // distinct, so that a broadcast is one
  for (size_t lane = 0; lane < 32; lane++) {
    if (!(request.mask >> lane & 1)) continue;
    const uint64_t begin = request.address[lane], end = begin + uint64_t(request.bytes);
    for (uint64_t sector = begin / 32; sector <= (end - 1) / 32; sector++) sectors.push_back(sector);
    bytes.push_back(begin);
  }
  auto distinct = [](std::vector<uint64_t>& values) {
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
    return values.size();
  };
  traffic.units += distinct(sectors);
  traffic.ideal += (distinct(bytes) * uint64_t(request.bytes) + 31) / 32;
}

}  // namespace

void count_matrix_load(const void* const (&rows)[8]) {
  Request request;
  request.bytes = 16;
  request.mask = 0xff;
  for (size_t row = 0; row < 8; row++) request.address[row] = uintptr_t(rows[row]);
  Traffic& traffic = machine.traffic[machine.place];
  traffic.requests++;
  traffic.bytes = 16;
  traffic.shared = true;
  count_banks(request, traffic);
}

size_t place_offset(const void* place) {
  Dl_info info;
  if (dladdr(place, &info) == 0) return 0;
  return size_t(static_cast<const char*>(place) - static_cast<const char*>(info.dli_fbase)) - 1;
}

bool in_shared(const Block& block, const void* p, size_t bytes) {
  const auto* at = static_cast<const char*>(p);
  return at >= block.shared && at + bytes <= block.shared + machine.shared_bytes;
}

Buffer* buffer_of(const void* p) {
  auto next = machine.buffers.upper_bound(uintptr_t(p));
  if (next == machine.buffers.begin()) return nullptr;
  Buffer& buffer = std::prev(next)->second;
  return uintptr_t(p) < buffer.end + buffer.red_zone ? &buffer : nullptr;
}

void note_shared(Thread& thread, const void* p, size_t bytes, bool write, const void* code) {
  note_bytes(shared_place(*thread.block, p, code), bytes, thread, write);
}

void note_access(const void* p, size_t bytes, bool write, const void* place) {
  Machine& m = machine;
  if (m.running == nullptr || m.running->fibre.owns(p)) return;
  Thread& thread = *m.running;
  // threadIdx and its kind are no memory, wherever the emulator keeps them.
  if (p == &current || uintptr_t(p) - uintptr_t(&thread.view) < sizeof thread.view) return;
  Block& block = *thread.block;
  m.statistics.accesses++;
  const auto* at = static_cast<const char*>(p);
  if (block.shared != nullptr && at >= block.shared && at < block.shared + block.shared_capacity + kRedZone) {
    if (!in_shared(block, p, bytes))
      fail("shared memory out of bounds: byte " + std::to_string(at - block.shared) + " of " +
           std::to_string(m.shared_bytes) + ", " + where(place));
    const Place of_shadow = shared_place(block, p, place);
    for (size_t i = 0; m.in_atomic > 0 && m.options.check_races && i < bytes; i++)
      if (!note_atomic(of_shadow.first[i], thread, of_shadow)) break;
    if (m.in_atomic == 0 && m.options.check_races) note_shared(thread, p, bytes, write, place);
    if (m.in_atomic == 0 && m.options.count_traffic)
      note_request(thread, uint64_t(at - block.shared), int(bytes), true, write, place);
  } else if (Buffer* buffer = buffer_of(p)) {
    if (uintptr_t(p) < buffer->begin || uintptr_t(p) + bytes > buffer->end)
      fail("global memory out of bounds: byte " + std::to_string(int64_t(uintptr_t(p)) - int64_t(buffer->begin)) +
           " of a buffer of " + std::to_string(buffer->end - buffer->begin) + ", " + where(place));
    if (m.in_atomic == 0 && m.options.check_races) note_bytes(global_place(*buffer, p, place), bytes, thread, write);
    if (m.in_atomic == 0 && m.options.count_traffic)
      note_request(thread, uintptr_t(p), int(bytes), false, write, place);
  } else if (write) {
    fail("a store outside device memory, " + where(place));
  }
  if (m.options.preemption > 0 && m.in_atomic == 0 && double(random_number() >> 11) * 0x1p-53 < m.options.preemption) {
    m.ready.push_back(&thread);
    switch_away();
  }
}

void begin_block_memory(Block& block) {
  const size_t bytes = machine.shared_bytes;
  if (bytes > 0 && block.shared_capacity < bytes) {
    free(block.shared);
    block.shared = static_cast<char*>(aligned_alloc(128, (bytes + kRedZone + 127) / 128 * 128));
    block.shared_capacity = bytes;
  }
  if (bytes > 0) std::memset(block.shared, 0xff, bytes);  // NaN in every floating-point type
  block.epoch = ++machine.last_epoch;
  if (machine.options.check_races && block.shadow.size() < bytes) block.shadow.resize(bytes);
  block.requests.clear();
}

void end_block_memory(Block& block) {
  for (const auto& [key, request] : block.requests) {
    Traffic& traffic = machine.traffic[std::get<0>(key)];
    traffic.requests++;
    traffic.bytes = request.bytes;
    traffic.shared = request.shared;
    traffic.write = request.write;
    request.shared ? count_banks(request, traffic) : count_sectors(request, traffic);
  }
  block.requests.clear();
}

void* shared_memory(size_t bytes) {
  if (bytes > machine.shared_bytes)
    fail("the kernel's shared struct has " + std::to_string(bytes) + " bytes, but the launch gave " +
         std::to_string(machine.shared_bytes));
  return machine.running->block->shared;
}

void fence() {
  const Thread& thread = *machine.running;
  thread.block->fenced = {++machine.clock, {thread.view.number + 1, thread.barriers, thread.warp_barriers}};
}

Atomic::Atomic(const void* p, size_t bytes) {
  machine.in_atomic++;
  Block& block = *machine.running->block;
  machine.published[block.number] = block.fenced;
  block.acquired = machine.published;
  note_access(p, bytes, true, __builtin_return_address(0));  // bounds
  if (Buffer* buffer = buffer_of(p); buffer != nullptr && machine.options.check_races)
    for (size_t i = 0; i < bytes; i++) {
      const Place place = global_place(*buffer, p, nullptr);
      Shadow& byte = place.first[i];
      of_this_epoch(byte, place);
      byte.block = 0;  // nobody's: atomics of two blocks do not race
      byte.initialised = true;
    }
}
Atomic::~Atomic() { machine.in_atomic--; }

void copy_async(void* to, const void* from, int valid, int line) {
  Thread& thread = *machine.running;
  if (!in_shared(*thread.block, to, 16)) fail("cp.async into what is not shared memory, line " + std::to_string(line));
  if (uintptr_t(to) % 16 != 0 || uintptr_t(from) % 16 != 0)
    fail("cp.async needs addresses aligned to 16 bytes, line " + std::to_string(line));
  if (valid < 0 || valid > 16) fail("cp.async of " + std::to_string(valid) + " bytes, line " + std::to_string(line));
  const auto* place = static_cast<const char*>(__builtin_return_address(0));
  note_access(to, 16, true, place);
  if (valid > 0)
    note_access(from, size_t(valid), false, place - 1);  // a request of its own, of the same line
  else
    thread.executions[place - 1]++;  // the lanes of a warp stay lined up
  std::memset(to, 0xff, 16);         // under way: who reads it before the wait reads NaN
  thread.copies.push_back({to, from, valid, thread.copy_group});
}

void copy_commit() { machine.running->copy_group++; }

void copy_wait(int allowed) {
  Thread& thread = *machine.running;
  auto finished = [&](const AsyncCopy& copy) { return copy.group + unsigned(allowed) < thread.copy_group; };
  for (const AsyncCopy& copy : thread.copies) {
    if (!finished(copy)) continue;
    if (machine.options.check_races) note_shared(thread, copy.to, 16, true, nullptr);
    std::memcpy(copy.to, copy.from, size_t(copy.valid));
    std::memset(static_cast<char*>(copy.to) + copy.valid, 0, size_t(16 - copy.valid));
  }
  std::erase_if(thread.copies, finished);
}

}  // namespace emu

// What gcc and clang call where they instrument. Hidden: a real ThreadSanitizer elsewhere in the process is not meant.
#define EMU_HOOK extern "C" __attribute__((visibility("hidden"), noinline))
#define EMU_PLACE __builtin_return_address(0)
EMU_HOOK void __tsan_init() {}
EMU_HOOK void __tsan_func_entry(void*) {}
EMU_HOOK void __tsan_func_exit() {}
EMU_HOOK void __tsan_vptr_update(void**, void*) {}
EMU_HOOK void __tsan_vptr_read(void**) {}
#define EMU_HOOKS(bytes)                                                                                \
  EMU_HOOK void __tsan_read##bytes(void* p) { emu::note_access(p, bytes, false, EMU_PLACE); }           \
  EMU_HOOK void __tsan_write##bytes(void* p) { emu::note_access(p, bytes, true, EMU_PLACE); }           \
  EMU_HOOK void __tsan_unaligned_read##bytes(void* p) { emu::note_access(p, bytes, false, EMU_PLACE); } \
  EMU_HOOK void __tsan_unaligned_write##bytes(void* p) { emu::note_access(p, bytes, true, EMU_PLACE); }
EMU_HOOKS(1)
EMU_HOOKS(2)
EMU_HOOKS(4)
EMU_HOOKS(8)
EMU_HOOKS(16)
EMU_HOOK void __tsan_read_range(void* p, size_t bytes) { emu::note_access(p, bytes, false, EMU_PLACE); }
EMU_HOOK void __tsan_write_range(void* p, size_t bytes) { emu::note_access(p, bytes, true, EMU_PLACE); }
// memcpy and memset of kernels arrive here instead of in libc.
EMU_HOOK void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  emu::note_access(from, bytes, false, EMU_PLACE);
  emu::note_access(to, bytes, true, EMU_PLACE);
  return memcpy(to, from, bytes);
}
EMU_HOOK void* __tsan_memset(void* to, int value, size_t bytes) {
  emu::note_access(to, bytes, true, EMU_PLACE);
  return memset(to, value, bytes);
}
