#include "fibre.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emu {
namespace {

#if defined(__SANITIZE_ADDRESS__)
const void* main_bottom = nullptr;  // of the stack that the first fibre was switched to from
size_t main_size = 0;
#endif

}  // namespace

#if defined(__x86_64__)
extern "C" void emu_switch(void** save, void* to);
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch, @function
emu_switch:
  endbr64
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch, .-emu_switch
)");
#endif

Fibre::~Fibre() {
  if (stack_ == nullptr) return;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_, kStack);
#endif
  munmap(stack_ - kGuard, kStack + kGuard);
}

void Fibre::prepare(void (*entry)()) {
  if (stack_ == nullptr) {
    void* memory =
        mmap(nullptr, kStack + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    mprotect(memory, kGuard, PROT_NONE);  // an overflow ends here instead of in another fibre's stack
    stack_ = static_cast<char*>(memory) + kGuard;
    static size_t n_stacks = 0;
    colour_ = n_stacks++ % 16 * 256;
  }
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_, kStack);  // what an abandoned fibre left
#endif
  fake_stack_ = nullptr;
#if defined(__x86_64__)
  // Stacks that all began at one offset of a page would share eight ways of the first cache.
  auto* top = reinterpret_cast<uintptr_t*>(stack_ + kStack - 64 - colour_);
  *--top = 0;  // where `entry` would return to: it never does
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < 6; i++) *--top = 0;  // the saved registers; a launch sets the floating-point units for all
  stack_pointer_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = kStack;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
}

void Fibre::switch_to(Fibre& from, Fibre& to, [[maybe_unused]] bool leaving) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(leaving ? nullptr : &from.fake_stack_, to.stack_ ? to.stack_ : main_bottom,
                                 to.stack_ ? kStack : main_size);
#endif
#if defined(__x86_64__)
  emu_switch(&from.stack_pointer_, to.stack_pointer_);
#else
  swapcontext(&from.context_, &to.context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.fake_stack_, nullptr, nullptr);
#endif
}

void Fibre::entered() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (main_bottom == nullptr) {
    main_bottom = bottom;
    main_size = size;
  }
#endif
}

}  // namespace emu
