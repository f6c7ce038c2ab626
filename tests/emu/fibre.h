// Fibres: stacks to switch between on one OS thread. x86-64 by hand (27 ns a switch), elsewhere by ucontext (a system
// call each time).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emu {

// A place to switch to: a fibre, or the stack that the launch was called on.
class Fibre {
 public:
  Fibre() = default;
  Fibre(const Fibre&) = delete;
  ~Fibre();

  // Gives it a stack, and `entry` to begin with when it is switched to. It must not be running.
  void prepare(void (*entry)());
  bool owns(const void* p) const { return uintptr_t(p) - uintptr_t(stack_) < kStack; }

  // From one fibre to another; returns when something switches back. `leaving` is never switched back to.
  static void switch_to(Fibre& from, Fibre& to, bool leaving);
  // The first thing to call on a new fibre: tells AddressSanitizer that the switch is done.
  static void entered();

 private:
  static constexpr size_t kGuard = 4096;
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kStack = 256 << 10;
#else
  static constexpr size_t kStack = 64 << 10;
#endif
  char* stack_ = nullptr;
  size_t colour_ = 0;
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
  void* fake_stack_ = nullptr;  // AddressSanitizer's
};

}  // namespace emu
