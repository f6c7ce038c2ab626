// Work items on torch's own threads. Items are handed out one by one, so that a slow or disturbed core takes fewer of
// them; results do not depend on who computes what. Small work stays on the thread that asks for it.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <exception>
#include <mutex>

#include "../ops/tensor.h"

namespace itm {

// Work is counted in multiply-adds of the tile products; anything else in as many of them as take its time.
constexpr double kWorkerWork = 1 << 25;  // a thread is woken for so much: 0.2 to 1 ms
constexpr double kMoveWork = 64;         // a number copied to another place, transposed or converted
constexpr double kScanWork = 16;         // a number compared where it lies
constexpr double kWeighWork = 256;       // a similarity of a tile normalised and weighted: exponentials, sums

// kWorkerWork, or what ITM_FAST_GRAIN says: with 1, whatever can be shared out is.
double worker_work();

// Calls work(next) on each of at most n_items workers, where next() yields the items from 0 until it returns -1.
// total_work: of all items; decides how many threads take part.
template <class Work>
void parallel_workers(int64_t n_items, double total_work, Work&& work) {
  if (n_items <= 0) return;
  struct Shared {
    Work& work;
    int64_t n_items;
    std::atomic<int64_t> next{0};
    std::exception_ptr error;
    std::mutex lock;
  } shared{work, n_items, {}, {}, {}};
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
  const int64_t threads = std::min<int64_t>(n_items, torch::stable::get_num_threads());
  const int64_t workers = int64_t(std::clamp(total_work / worker_work(), 1.0, double(threads)));
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, workers, 1, worker, &shared));
  if (shared.error) std::rethrow_exception(shared.error);
}

template <class Item>
void parallel_items(int64_t n_items, double total_work, Item&& item) {
  parallel_workers(n_items, total_work, [&](auto next) {
    for (int64_t i = next(); i >= 0; i = next()) item(i);
  });
}

// Zeros, on the threads that so many are worth: torch's own fill wakes all of them from 32768 numbers on.
inline void clear(void* memory, int64_t bytes) {
  constexpr int64_t piece = 1 << 18;
  char* data = static_cast<char*>(memory);
  parallel_items((bytes + piece - 1) / piece, bytes / 4 * kMoveWork,
                 [&](int64_t i) { std::memset(data + i * piece, 0, std::min(piece, bytes - i * piece)); });
}

inline Tensor zeros(Shape shape, ScalarType type) {
  Tensor tensor = empty(shape, type);
  clear(tensor.mutable_data_ptr(), tensor.numel() * int64_t(tensor.element_size()));
  return tensor;
}

// Lets workers act one after another in the order of their items. A sum over items then needs one buffer a worker, not
// one an item, and does not depend on the number of threads. The items must be those of one parallel_workers.
class InOrder {
 public:
  // One item's turn, made before its work begins: a worker that fails in between must not keep the others waiting.
  class Turn {
   public:
    Turn(InOrder& order, int64_t item) : order(order), item(item) {}
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() { order.leave(acted); }

    // Waits until the turns of all items before have ended, and acts; not at all if one of them failed.
    template <class Act>
    void operator()(Act&& act) {
      if (!order.wait(item)) return;
      act();
      acted = true;
    }

   private:
    InOrder& order;
    const int64_t item;
    bool acted = false;
  };

 private:
  std::mutex lock;
  std::condition_variable changed;
  int64_t n_acted = 0;
  bool failed = false;

  bool wait(int64_t item) {
    std::unique_lock<std::mutex> guard(lock);
    changed.wait(guard, [&] { return failed || n_acted == item; });
    return !failed;
  }

  void leave(bool acted) {
    const std::lock_guard<std::mutex> guard(lock);
    n_acted += acted;
    failed |= !acted;
    changed.notify_all();
  }
};

}  // namespace itm
