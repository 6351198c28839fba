// matmul/product: z[m,n] = Σ_k A(m,k) · B(k,n), on matrix units
//
// Elements lie where matmul/product.wgsl says. gemm/matrix, in the place of gemm/tile, says which invocations compute them.
enable f16;
enable wgpu_cooperative_matrix;

// include matmul/product
// include gemm/loads
// include gemm/matrix
