// Lists of candidates as the kernels take them: nothing is gathered, vectors are found by number.
#pragma once

#include <algorithm>

#include "groups.h"

namespace itm::cuda {

// The members of some lists, cut into tiles on the device.
class Lists {
 public:
  // bytes_beside: of a list, that its caller has in memory.
  Lists(Launch& launch, const Groups& members, int64_t n_lists, int64_t length, int most_groups,
        int64_t bytes_beside = 0)
      : launch_(launch), members_(members) {
    STD_TORCH_CHECK(length * members.max < (int64_t(1) << 31), "lists of ", length, " candidates are too long");
    most_ = std::clamp<int64_t>(kScratchBytes / (kTables * 4 * length + bytes_beside), 1, n_lists);
    tables_ = empty(members.vectors, {kTables, most_ * length}, ScalarType::Int);
    args_.counts = launch.in<int64_t>(members.counts);
    int32_t* table = launch.out<int32_t>(tables_);
    for (int32_t** of : {&args_.groups, &args_.sizes, &args_.offsets, &args_.tile_begin, &args_.tile_end}) {
      *of = table;
      table += most_ * length;
    }
    args_.length = int32_t(length);
    args_.n_groups = int32_t(members.n);
    args_.max = int32_t(members.max);
    args_.limit = kTileVectors;
    args_.most_groups = most_groups;
  }

  // Lists at a time.
  int64_t most() const { return most_; }

  // Of n lists; candidates and scores: from the first of them on.
  Side plan(int64_t n, const int64_t* candidates, float* scores) {
    n_tiles_ = zeros(members_.vectors, {1}, ScalarType::Int);
    args_.candidates = candidates;
    args_.scores = scores;
    args_.n_tiles = launch_.inout<int32_t>(n_tiles_);
    args_.n_lists = int32_t(n);
    plan_lists(args_, launch_.stream());
    Side side{};
    side.data = members_.n > 0 ? launch_.in<void>(members_.prepared) : nullptr;
    side.sizes = args_.sizes;
    side.offsets = args_.offsets;
    side.tile_begin = args_.tile_begin;
    side.tile_end = args_.tile_end;
    side.n_tiles = args_.n_tiles;
    side.groups = args_.groups;
    side.n_groups = args_.n_groups;
    side.max = args_.max;
    side.most_tiles = int32_t(n * args_.length);
    side.list_length = args_.length;
    return side;
  }

 private:
  static constexpr int kTables = 5;
  Launch& launch_;
  const Groups& members_;
  ListsArgs args_{};
  int64_t most_ = 1;
  Tensor tables_, n_tiles_;
};

}  // namespace itm::cuda
