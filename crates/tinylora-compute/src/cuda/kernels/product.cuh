// What is added to the tensor cores' sum of a product, and how the whole is stored: the same for every kernel of products.
#pragma once
#include "prelude.cuh"

// The side path: out[row][column] += Σ_s z[row][at(column) + s] · panel[s][column], rank by rank ascending.
struct Side {
    const float* z;      // (rows, stride); null: none
    const float* panel;  // (rank, columns)
    int stride, rank;
    // Columns below end0 use z from at0 on, those below end1 from at1 on, the rest from at2 on.
    int end0, end1, at0, at1, at2;
};

enum Store { BF16, F32, ADD_F32 };
