// conv2d/output on matrix units: the same places, and the products of gemm/matrix
enable f16;
enable wgpu_cooperative_matrix;

// include conv2d/output
// include gemm/loads
// include gemm/matrix
