// What Python hands over: a Llama's weights once, and then one ragged batch a pass. Plain C structs, mirrored field by
// field in binding.py. All pointers stay the caller's; nothing is freed here.
//
// H hidden, N query heads, M key/value heads of D each, I intermediate, V rows of the output layer, T tokens of a pass.
#pragma once

#include <cstdint>

extern "C" {

// A matrix [rows, columns]: bfloat16 where `scales` is null, else 8-bit integers with one scale a row. They lie in panels
// (panels.h) where md_panel says so; else row by row, 8-bit integers in the order that `Packed` in vectors.h reads. All
// matrices of a model are of one sort.
struct MdMatrix {
  const void* weights;
  const float* scales;  // [rows] or null
  const float* bias;    // [rows] or null
  int64_t rows, columns;
};

struct MdLayer {
  MdMatrix qkv;      // [(N + 2M) D, H]
  MdMatrix out;      // [H, N D]
  MdMatrix gate_up;  // [2I, H]
  MdMatrix down;     // [H, I]
  const float* before_attention;  // [H], RMS norm
  const float* before_mlp;        // [H]
};

struct MdModel {
  int64_t layers, hidden, heads, kv_heads, head_dim, intermediate;
  float eps, scaling;
  const MdLayer* layer;   // [layers]
  const uint16_t* embed;  // [tokens, H] bfloat16
  const float* norm;      // [H]
  MdMatrix head;          // [V, H]
  const float* cos;       // [positions, D]
  const float* sin;       // [positions, D], the first half negated: a rotation is a * cos + rolled(a) * sin
};

struct MdBatch {
  int64_t tokens, sequences, rows;
  const int64_t* token_ids;           // [T]
  const int64_t* positions;           // [T]
  const int64_t* slots;               // [T], where the K and V of each token go
  const int64_t* query_lens;          // [sequences]
  const int64_t* const* kv_slots;     // [sequences] -> slots of the whole sequence, in order of position
  const int64_t* context_lens;        // [sequences]
  const int64_t* logit_rows;          // [rows]
  uint16_t* const* keys;              // [layers] -> [slots, M, D] bfloat16
  uint16_t* const* values;            // [layers] -> [slots, M, D] bfloat16
  float* logits;                      // [rows, V], written
};

}  // extern "C"
