// What the tests ask of the emulator, by ctypes: options, device memory, errors, counts.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "machine.h"

using emu::machine;

#define EMU_API extern "C" __attribute__((visibility("default")))

EMU_API void emu_configure(uint64_t seed, int order, int resident_blocks, double preemption, int check_races,
                           int count_traffic) {
  machine.options = {seed, emu::Order(order), resident_blocks, preemption, check_races != 0, count_traffic != 0};
}

EMU_API void emu_leave_out(int number) { machine.left_out = number; }

// Tensor cores that truncate and an __expf that is off by 2^-22, as devices' are.
EMU_API void emu_be_pessimistic(int is) { machine.pessimistic = is != 0; }

// Whether the device is Ampere or newer, as ops/similarity.cpp asks.
static int has_tile_kernels = 1;
EMU_API void emu_be_ampere(int is) { has_tile_kernels = is; }
EMU_API int emu_has_tile_kernels() { return has_tile_kernels; }

// Device memory with red zones, filled with NaN.
EMU_API void* emu_allocate(size_t bytes) {
  const size_t whole = (bytes + 2 * emu::kRedZone + 4095) / 4096 * 4096;
  auto* memory = static_cast<char*>(aligned_alloc(4096, whole));
  if (memory == nullptr) return nullptr;
  memset(memory, 0xff, whole);
  const auto begin = uintptr_t(memory) + emu::kRedZone;
  machine.buffers[uintptr_t(memory)] = {begin, begin + bytes, emu::kRedZone, std::vector<emu::Shadow>(bytes)};
  return reinterpret_cast<void*>(begin);
}

EMU_API void emu_free(void* p) {
  auto* memory = static_cast<char*>(p) - emu::kRedZone;
  machine.buffers.erase(uintptr_t(memory));
  free(memory);
}

// Takes a stretch out of what is known of host memory; what lies before and after it stays known.
static void forget(uintptr_t begin, uintptr_t end) {
  if (begin == end) return;
  auto& known = machine.buffers;
  auto at = known.upper_bound(begin);
  if (at != known.begin() && std::prev(at)->second.end > begin) at = std::prev(at);
  while (at != known.end() && at->second.begin < end) {
    emu::Buffer old = std::move(at->second);
    at = known.erase(at);
    const auto part = [&old](uintptr_t from, uintptr_t to) {
      if (from >= to) return;
      const auto first = old.shadow.begin() + (old.shadow.empty() ? 0 : ptrdiff_t(from - old.begin));
      const auto last = old.shadow.empty() ? first : first + ptrdiff_t(to - from);
      machine.buffers[from] = {from, to, 0, {first, last}};
    };
    part(old.begin, begin);
    part(end, old.end);
  }
}

// Memory that was handed out just now: nobody has written it, whatever lay there before.
EMU_API void emu_forget(const void* p, size_t bytes) { forget(uintptr_t(p), uintptr_t(p) + bytes); }

// Host memory as device memory until emu_release; a part of what is already known is nothing new. Around it lies
// memory of others, the kernels' arguments among them: only stores outside are found. Of tensors that were freed
// meanwhile it may hold any parts: no two records overlap, or one byte would have two answers.
EMU_API void emu_adopt(const void* p, size_t bytes, int written) {
  if (bytes == 0) return;
  const auto begin = uintptr_t(p), end = begin + bytes;
  emu::Buffer* known = emu::buffer_of(p);
  if (known == nullptr || known->end < end) {
    std::vector<emu::Shadow> shadow(machine.options.check_races ? bytes : 0);
    for (auto at = machine.buffers.begin(); at != machine.buffers.end() && !shadow.empty(); ++at) {
      const emu::Buffer& old = at->second;
      for (uintptr_t byte = std::max(begin, old.begin); byte < std::min(end, old.end) && !old.shadow.empty(); byte++)
        shadow[byte - begin] = old.shadow[byte - old.begin];
    }
    forget(begin, end);
    known = &(machine.buffers[begin] = {begin, end, 0, std::move(shadow)});
  }
  for (size_t i = begin - known->begin; written != 0 && i < std::min(end - known->begin, known->shadow.size()); i++)
    known->shadow[i].initialised = true;
}

EMU_API void emu_release() {
  std::erase_if(machine.buffers, [](const auto& entry) { return entry.second.red_zone == 0; });
}

EMU_API void emu_copy_in(void* to, const void* from, size_t bytes) {
  memcpy(to, from, bytes);
  emu::Buffer& buffer = *emu::buffer_of(to);
  for (size_t i = 0; i < bytes; i++) buffer.shadow[uintptr_t(to) - buffer.begin + i].initialised = true;
}

EMU_API void emu_copy_out(void* to, const void* from, size_t bytes) { memcpy(to, from, bytes); }

// The error of the launches since the last call, or nothing; the text lives until the next call.
EMU_API const char* emu_take_error() {
  static std::string taken;
  taken = std::move(machine.error);
  machine.error.clear();
  return taken.c_str();
}

EMU_API void emu_statistics(uint64_t* out) {
  const auto& s = machine.statistics;
  const uint64_t values[] = {s.switches, s.barriers, s.collectives, s.matrix_products,
                             s.accesses, s.blocks,   s.races,       s.launches};
  memcpy(out, values, sizeof values);
}

// One line a load or store: offset in the library, shared, write, bytes, requests, wavefronts or sectors, the ideal.
EMU_API const char* emu_take_traffic() {
  static std::string text;
  text.clear();
  for (const auto& [place, t] : machine.traffic) {
    char line[160];
    snprintf(line, sizeof line, "%zx %d %d %d %llu %llu %llu\n", emu::place_offset(place), int(t.shared), int(t.write),
             t.bytes, static_cast<unsigned long long>(t.requests), static_cast<unsigned long long>(t.units),
             static_cast<unsigned long long>(t.ideal));
    text += line;
  }
  machine.traffic.clear();
  return text.c_str();
}
