// conv2d/kernel: w̄[k,c,r,s] = Σ_{n,p,q} x[n,c,h,v] · ȳ[n,k,p,q], on matrix units
//
// Elements lie where conv2d/kernel.wgsl says. gemm/matrix, in the place of gemm/tile, says which invocations compute them.
enable f16;
enable wgpu_cooperative_matrix;

// include conv2d/kernel
// include gemm/loads
// include gemm/matrix
