// A matrix that begins 8 bytes into a row, which is not what devices read.
// dispatch: 1 | 64 64
enable f16;
enable wgpu_cooperative_matrix;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> slab: array<f16, 128>;
var<workgroup> product: array<f32, 64>;

@compute @workgroup_size(32)
fn main(@builtin(local_invocation_index) lane: u32) {
    for (var i = lane; i < 128u; i += 32u) {
        slab[i] = f16(x[i % 64u]);
    }
    workgroupBarrier();
    let first = 4u; // sound: let first = 8u;
    let left = coopLoadT<coop_mat8x8<f16, A>>(&slab[first], 8u); // reports: misaligned
    let right = coopLoad<coop_mat8x8<f16, B>>(&slab[0], 8u);
    var sum: coop_mat8x8<f32, C>;
    let square = coopMultiplyAdd(left, right, sum);
    let at = &product[0];
    coopStoreT(square, at, 8u);
    workgroupBarrier();
    y[lane] = product[lane];
    y[lane + 32u] = product[lane + 32u];
}
