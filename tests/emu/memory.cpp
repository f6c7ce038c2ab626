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

void report(const char* what, const Thread& thread, const char* memory, size_t offset, uint32_t other,
            const void* place) {
  machine.statistics.races++;
  if (machine.races.size() >= 8) return;
  std::string text = std::string(what) + ", " + memory + " byte " + std::to_string(offset) + ", block " +
                     std::to_string(thread.block->number) + ", thread " + std::to_string(thread.view.number);
  if (other == Shadow::kSeveral)
    text += " and several others";
  else if (other != 0)
    text += " and thread " + std::to_string(other - 1);
  machine.races.push_back(text + ", " + where(place));
}

// A launch comes after everything that those before it did.
void of_this_launch(Shadow& byte) {
  if (byte.launch != machine.launch) byte = {{}, {}, 0, 0, machine.launch, byte.initialised};
}

// Whether an earlier access of the same block comes before what this thread does now, by a barrier of the block or of
// the warp. Shuffles do not order memory.
bool ordered(const Shadow::Access& access, const Thread& thread) {
  if (access.thread == 0 || access.thread == thread.view.number + 1 || access.barriers < thread.barriers) return true;
  return (access.thread - 1) / 32 == thread.view.warp && access.warp_barriers < thread.warp_barriers;
}

// Whether a fence of the block that wrote the byte comes after that write.
bool covers(const Fence& fence, const Shadow& byte) {
  const Shadow::Access& write = byte.write;
  if (fence.clock <= byte.clock) return false;
  if (write.thread == fence.by.thread || write.barriers < fence.by.barriers) return true;
  return (write.thread - 1) / 32 == (fence.by.thread - 1) / 32 && write.warp_barriers < fence.by.warp_barriers;
}

// False after a report: one report per access will do.
bool note_byte(Shadow& byte, Thread& thread, bool write, const char* memory, size_t offset, const void* place) {
  of_this_launch(byte);
  const uint32_t block = thread.block->number + 1;
  const Shadow::Access mine{thread.view.number + 1, thread.barriers, thread.warp_barriers};
  const bool same_block = byte.block == block;
  const auto& acquired = thread.block->acquired;
  const bool elsewhere = byte.block != 0 && !same_block;
  if (elsewhere && (acquired.empty() || !covers(acquired[byte.block - 1], byte))) {
    report(write ? "two blocks write" : "a read of what another block writes", thread, memory, offset, 0, place);
    return false;
  }
  if (!byte.initialised && !write) {
    byte.initialised = true;
    report("a read of what nobody wrote", thread, memory, offset, 0, place);
    return false;
  }
  if (same_block && !ordered(byte.write, thread)) {
    report(write ? "a write races with a write" : "a read races with a write", thread, memory, offset,
           byte.write.thread, place);
    return false;
  }
  if (!write) {
    if (elsewhere) return true;  // ordered by fences and atomics; who reads it is not kept
    auto& [first, second] = byte.read;
    const bool use_first = first.thread == 0 || first.thread == mine.thread ||
                           ((first.thread - 1) / 32 == thread.view.warp && second.thread != 0);
    (use_first ? first : second) = mine;
    return true;
  }
  for (const Shadow::Access& read : byte.read)
    if (same_block && !ordered(read, thread)) {
      report("a write races with a read", thread, memory, offset, read.thread, place);
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

// Atomic operations on shared memory race with everything but each other.
bool note_atomic(Shadow& byte, Thread& thread, size_t offset, const void* place) {
  of_this_launch(byte);
  const bool after = ordered(byte.write, thread);
  const bool clean = (after || byte.atomic) && ordered(byte.read[0], thread) && ordered(byte.read[1], thread);
  if (!clean) report("an atomic operation races", thread, "shared", offset, after ? 0 : byte.write.thread, place);
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

void note_shared(Thread& thread, const void* p, size_t bytes, bool write, const void* place) {
  Block& block = *thread.block;
  const auto offset = size_t(static_cast<const char*>(p) - block.shared);
  for (size_t i = 0; i < bytes; i++)
    if (!note_byte(block.shadow[offset + i], thread, write, "shared", offset + i, place)) return;
}

void note_access(const void* p, size_t bytes, bool write, const void* place) {
  Machine& m = machine;
  if (m.running == nullptr || m.running->fibre.owns(p)) return;
  Thread& thread = *m.running;
  Block& block = *thread.block;
  m.statistics.accesses++;
  const auto* at = static_cast<const char*>(p);
  if (block.shared != nullptr && at >= block.shared && at < block.shared + block.shared_capacity + kRedZone) {
    if (!in_shared(block, p, bytes))
      fail("shared memory out of bounds: byte " + std::to_string(at - block.shared) + " of " +
           std::to_string(m.shared_bytes) + ", " + where(place));
    for (size_t i = 0; m.in_atomic > 0 && m.options.check_races && i < bytes; i++)
      if (!note_atomic(block.shadow[size_t(at - block.shared) + i], thread, size_t(at - block.shared) + i, place))
        break;
    if (m.in_atomic == 0 && m.options.check_races) note_shared(thread, p, bytes, write, place);
    if (m.in_atomic == 0 && m.options.count_traffic)
      note_request(thread, uint64_t(at - block.shared), int(bytes), true, write, place);
  } else if (Buffer* buffer = buffer_of(p)) {
    if (uintptr_t(p) < buffer->begin || uintptr_t(p) + bytes > buffer->end)
      fail("global memory out of bounds: byte " + std::to_string(int64_t(uintptr_t(p)) - int64_t(buffer->begin)) +
           " of a buffer of " + std::to_string(buffer->end - buffer->begin) + ", " + where(place));
    const size_t offset = uintptr_t(p) - buffer->begin;
    if (m.in_atomic == 0 && m.options.check_races)
      for (size_t i = 0; i < bytes; i++)
        if (!note_byte(buffer->shadow[offset + i], thread, write, "global", offset + i, place)) break;
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
  if (machine.options.check_races) block.shadow.assign(bytes, {});
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
      Shadow& byte = buffer->shadow[uintptr_t(p) - buffer->begin + i];
      of_this_launch(byte);
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
