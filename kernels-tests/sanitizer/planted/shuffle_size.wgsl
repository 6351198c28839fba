// A value of a lane that small subgroups do not have.
// dispatch: 1 | 8 8
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(8)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(subgroup_size) size: u32) {
    y[lane] = subgroupShuffle(x[lane], 7u); // reports: out-of-bounds // sound: y[lane] = subgroupShuffle(x[lane], min(size, 8u) - 1u);
}
