// The emulator and its own kernels under AddressSanitizer and UndefinedBehaviorSanitizer: every order, with and without
// failing launches, whose fibres are abandoned. Prints how many launches failed.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

extern "C" {
void emu_configure(uint64_t seed, int order, int resident_blocks, double preemption, int check_races, int traffic);
void* emu_allocate(size_t bytes);
void emu_free(void* p);
void emu_copy_in(void* to, const void* from, size_t bytes);
const char* emu_take_error();
void sum(const float* in, float* out, int* finished, int n);
void transpose(const float* in, float* out, int n, int padded);
void product(const void* left, const void* right, float* out, int k);
void fault(const float* in, float* out, int n, int which);
}

template <class T>
static T* device(const std::vector<T>& content) {
  auto* p = static_cast<T*>(emu_allocate(content.size() * sizeof(T)));
  emu_copy_in(p, content.data(), content.size() * sizeof(T));
  return p;
}

int main() {
  const int n = 600, side = 40, k = 48;
  float* x = device(std::vector<float>(size_t(side) * side, 1.0f));
  float* out = device(std::vector<float>(size_t(side) * side));
  int* finished = device(std::vector<int>(1));
  auto* left = device(std::vector<uint16_t>(size_t(16) * k, 0x3f80));
  auto* right = device(std::vector<uint16_t>(size_t(8) * k, 0x3f80));
  int failed = 0;
  for (int order = 0; order < 4; order++)
    for (int resident = 1; resident < 4; resident += 2) {
      emu_configure(uint64_t(order), order, resident, 0, 0, 0);
      std::memset(finished, 0, sizeof(int));
      sum(x, out, finished, n);
      if (*emu_take_error() != 0 || out[0] != float(n)) return 1;
      transpose(x, out, side, 1);
      product(left, right, out, k);
      if (*emu_take_error() != 0 || out[0] != float(k)) return 1;
      for (int which : {2, 3, 6, 7, 8, 9, 12}) {  // found without hooks
        fault(x, out, 100, which);
        failed += *emu_take_error() != 0;
      }
    }
  for (void* p : {static_cast<void*>(x), static_cast<void*>(out), static_cast<void*>(finished),
                  static_cast<void*>(left), static_cast<void*>(right)})
    emu_free(p);
  std::printf("%d", failed);
  return 0;
}
