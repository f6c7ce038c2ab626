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

static std::vector<uintptr_t> adopted;

// Host memory as device memory until emu_release; a part of what is already known is nothing new. Around it lies
// memory of others, the kernels' arguments among them: only stores outside are found.
EMU_API void emu_adopt(const void* p, size_t bytes, int written) {
  if (bytes == 0) return;
  const auto begin = uintptr_t(p), end = begin + bytes;
  emu::Buffer* known = emu::buffer_of(p);
  if (known == nullptr || known->begin > begin || known->end < end) {
    for (auto inside = machine.buffers.lower_bound(begin); inside != machine.buffers.end() && inside->first < end;)
      inside = machine.buffers.erase(inside);
    const size_t watched = machine.options.check_races ? bytes : 0;
    known = &(machine.buffers[begin] = {begin, end, 0, std::vector<emu::Shadow>(watched)});
    adopted.push_back(begin);
  }
  for (size_t i = begin - known->begin; written != 0 && i < std::min(end - known->begin, known->shadow.size()); i++)
    known->shadow[i].initialised = true;
}

EMU_API void emu_release() {
  for (const uintptr_t begin : adopted) machine.buffers.erase(begin);
  adopted.clear();
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
