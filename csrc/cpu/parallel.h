// Work items on torch's own threads. Items are handed out one by one, so that a slow or disturbed core takes fewer of
// them; results do not depend on who computes what.
#pragma once

#include <ATen/Parallel.h>
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

namespace itm {

// Calls work(next) on each of at most n_items workers, where next() yields the items from 0 until it returns -1.
template <class Work>
void parallel_workers(int64_t n_items, Work&& work) {
  if (n_items <= 0) return;
  struct Shared {
    Work& work;
    int64_t n_items;
    std::atomic<int64_t> next{0};
    std::exception_ptr error;
    std::mutex lock;
  } shared{work, n_items, {}, {}, {}};
  // torch's C entry point: unlike at::parallel_for, which is compiled into the caller, it needs no OpenMP flag here and
  // always runs on the threads that torch.set_num_threads governs.
  auto worker = [](int64_t, int64_t, void* context) {
    Shared& s = *static_cast<Shared*>(context);
    try {
      s.work([&s]() -> int64_t {
        const int64_t item = s.next.fetch_add(1, std::memory_order_relaxed);
        return item < s.n_items ? item : -1;
      });
    } catch (...) {
      std::lock_guard<std::mutex> guard(s.lock);
      s.error = std::current_exception();
      s.next = s.n_items;
    }
  };
  const int64_t workers = std::min<int64_t>(n_items, at::get_num_threads());
  TORCH_CHECK(torch_parallel_for(0, workers, 1, worker, &shared) == 0, "itm_fast: torch_parallel_for failed");
  if (shared.error) std::rethrow_exception(shared.error);
}

template <class Item>
void parallel_items(int64_t n_items, Item&& item) {
  parallel_workers(n_items, [&](auto next) {
    for (int64_t i = next(); i >= 0; i = next()) item(i);
  });
}

}  // namespace itm
