//! Which cases are run: by name, under the class of shape that each stands for.

use std::fmt;

use serde::Serialize;

use super::case::Case;
use super::families;

/// The families that primitives come in: `conv2d` of `conv2d/input`. Tests that run each family by itself are held against
/// this list, so that none is left out.
pub const FAMILIES: [&str; families::FAMILIES.len()] = {
    let (mut names, mut index) = ([""; families::FAMILIES.len()], 0);
    while index < names.len() {
        names[index] = families::FAMILIES[index].0;
        index += 1;
    }
    names
};

/// What a shape puts to the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShapeClass {
    /// Prime extents, which no tile divides.
    Prime,
    /// Smaller than a tile in every direction.
    Small,
    /// Extents of 1.
    Ones,
    /// Strides, uneven padding, windows larger and smaller than their step; for other families axes at odd places.
    Uneven,
    /// More than one tile in every direction.
    Tiled,
    /// More than 65535 workgroups in a row.
    Folded,
    /// As in training.
    Training,
}

impl ShapeClass {
    pub const ALL: [ShapeClass; 7] = [
        ShapeClass::Prime,
        ShapeClass::Small,
        ShapeClass::Ones,
        ShapeClass::Uneven,
        ShapeClass::Tiled,
        ShapeClass::Folded,
        ShapeClass::Training,
    ];
}

impl fmt::Display for ShapeClass {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            ShapeClass::Prime => "prime",
            ShapeClass::Small => "small",
            ShapeClass::Ones => "ones",
            ShapeClass::Uneven => "uneven",
            ShapeClass::Tiled => "tiled",
            ShapeClass::Folded => "folded",
            ShapeClass::Training => "training",
        })
    }
}

use ShapeClass::{Folded, Ones, Prime, Small, Tiled, Training, Uneven};

/// Geometries of the convolution family; each is run in all three roles.
const CONV2D: &[(ShapeClass, &str)] = &[
    (Prime, "n=2,c=3,h=7,w=5,k=5,r=3,s=3,stride=1,padding=1"),
    (Prime, "n=3,c=11,h=13,w=17,k=13,r=5,s=3,stride=1,padding=2"),
    (Prime, "n=2,c=33,h=7,w=5,k=39,r=3,s=3,stride=1,padding=1,groups=3"),
    (Small, "n=1,c=2,h=4,w=4,k=2,r=2,s=2,stride=1,padding=0"),
    (Small, "n=2,c=4,h=3,w=4,k=6,r=2,s=2,stride=1,padding=0,groups=2"),
    (Ones, "n=1,c=1,h=1,w=1,k=1,r=1,s=1,stride=1,padding=0"),
    (Ones, "n=1,c=1,h=1,w=9,k=1,r=1,s=3,stride=1,padding=1"),
    (Ones, "n=5,c=1,h=6,w=1,k=9,r=3,s=1,stride=1,padding=0"),
    (Ones, "n=2,c=8,h=6,w=6,k=5,r=1,s=1,stride=2,padding=0"),
    (Ones, "n=1,c=5,h=4,w=3,k=5,r=3,s=3,stride=1,padding=1,groups=5"),
    (Ones, "n=9,c=21,h=1,w=1,k=3,r=1,s=1,stride=1,padding=0,groups=3"),
    (Uneven, "n=2,c=3,h=7,w=5,k=4,r=3,s=3,stride=2,padding=1"),
    (Uneven, "n=1,c=4,h=11,w=10,k=3,r=5,s=4,stride=3,padding=2"),
    (Uneven, "n=3,c=2,h=9,w=10,k=6,r=2,s=2,stride=3,padding=0"),
    (Uneven, "n=2,c=5,h=6,w=7,k=3,r=2,s=3,stride=2,padding=3"),
    (Uneven, "n=2,c=9,h=8,w=9,k=10,r=4,s=4,stride=2,padding=1"),
    (Uneven, "n=9,c=10,h=9,w=8,k=4,r=5,s=4,stride=3,padding=2,groups=2"),
    (Tiled, "n=2,c=70,h=12,w=11,k=67,r=3,s=3,stride=1,padding=1"),
    (Tiled, "n=9,c=17,h=21,w=19,k=33,r=3,s=3,stride=2,padding=1"),
    (Tiled, "n=2,c=134,h=7,w=9,k=138,r=3,s=3,stride=2,padding=1,groups=2"),
    (Tiled, "n=5,c=449,h=3,w=3,k=450,r=1,s=1,stride=1,padding=0"),
    (Training, "n=32,c=3,h=32,w=32,k=16,r=3,s=3,stride=1,padding=1"),
    (Training, "n=32,c=16,h=14,w=14,k=32,r=3,s=3,stride=2,padding=1"),
    (Training, "n=32,c=64,h=14,w=14,k=128,r=3,s=3,stride=2,padding=1,groups=4"),
];

const OTHERS: &[(ShapeClass, &str)] = &[
    // One pixel a workgroup on CPU drivers, 128 on GPUs.
    (Folded, "conv2d/output(n=65600,c=1,h=1,w=1,k=4,r=1,s=1,stride=1,padding=0)"),
    (Folded, "conv2d/input(n=65600,c=4,h=1,w=1,k=1,r=1,s=1,stride=1,padding=0)"),
    (Folded, "conv2d/output(n=1,c=1,h=2900,w=2900,k=1,r=1,s=1,stride=1,padding=0)"),
    (Folded, "conv2d/input(n=1,c=1,h=2900,w=2900,k=1,r=1,s=1,stride=1,padding=0)"),
    //
    (Prime, "matmul/product(m=7,n=5,k=11,ta=0,tb=0)"),
    (Prime, "matmul/product(m=13,n=37,k=19,ta=1,tb=0)"),
    (Prime, "matmul/product(m=37,n=13,k=17,ta=0,tb=1)"),
    (Small, "matmul/product(m=2,n=3,k=2,ta=1,tb=1)"),
    (Ones, "matmul/product(m=1,n=1,k=1,ta=0,tb=0)"),
    (Ones, "matmul/product(m=1,n=33,k=1,ta=0,tb=1)"),
    (Ones, "matmul/product(m=70,n=1,k=9,ta=1,tb=0)"),
    (Tiled, "matmul/product(m=67,n=71,k=33,ta=0,tb=0)"),
    (Tiled, "matmul/product(m=71,n=67,k=35,ta=1,tb=0)"),
    (Tiled, "matmul/product(m=530,n=523,k=18,ta=0,tb=1)"),
    (Tiled, "matmul/product(m=515,n=540,k=17,ta=1,tb=1)"),
    (Training, "matmul/product(m=192,n=32,k=128,ta=0,tb=0)"),
    (Training, "matmul/product(m=128,n=32,k=192,ta=1,tb=0)"),
    (Training, "matmul/product(m=192,n=128,k=32,ta=0,tb=1)"),
    //
    (Prime, "elementwise/unary(f=identity,scale=-3,offset=2,x=13x7)"),
    (Prime, "elementwise/unary(f=identity,scale=0.3333333333333333,offset=0.1,x=13x7)"),
    (Prime, "elementwise/unary(f=exp,x=131)"),
    (Prime, "elementwise/unary(f=log,scale=0.5,offset=0.75,x=131)"),
    (Prime, "elementwise/unary(f=sqrt,scale=0.3,offset=0.1,x=131)"),
    (Prime, "elementwise/unary(f=cos,scale=-0.5,offset=1.5,x=131)"),
    (Prime, "elementwise/unary(f=relu,scale=-3,offset=0,x=131)"),
    (Prime, "elementwise/unary(f=clamp,low=-0.5,high=1,scale=2,offset=0,x=131)"),
    (Prime, "elementwise/unary(f=log,x=131)"),
    (Prime, "elementwise/unary(f=sqrt,x=131)"),
    (Prime, "elementwise/unary(f=reciprocal,x=131)"),
    (Prime, "elementwise/unary(f=sin,x=131)"),
    (Prime, "elementwise/unary(f=cos,x=131)"),
    (Prime, "elementwise/unary(f=sigmoid,x=131)"),
    (Prime, "elementwise/unary(f=softplus,x=131)"),
    (Prime, "elementwise/unary(f=relu,x=131)"),
    (Prime, "elementwise/unary(f=clamp,low=-0.5,high=0.75,x=131)"),
    (Small, "elementwise/unary(f=relu,x=3)"),
    (Ones, "elementwise/unary(f=exp,x=1x1)"),
    (Tiled, "elementwise/unary(f=sigmoid,x=5x1031)"),
    (Folded, "elementwise/unary(f=relu,x=4194305)"),
    (Training, "elementwise/unary(f=softplus,x=96x1)"),
    (Training, "elementwise/unary(f=relu,x=64x16x14x14)"),
    //
    (Prime, "elementwise/binary(f=add,a=5x13x7,b=5x13x7)"),
    (Prime, "elementwise/binary(f=subtract,a=5x13x7,b=5x13x7)"),
    (Prime, "elementwise/binary(f=multiply,a=5x13x7,b=5x13x7)"),
    (Prime, "elementwise/binary(f=divide,a=5x13x7,b=5x13x7)"),
    (Prime, "elementwise/binary(f=divide-or-zero,a=5x13x7,b=5x13x7)"),
    (Uneven, "elementwise/binary(f=divide-or-zero,a=3x1x5,b=1x7x1)"),
    (Prime, "elementwise/binary(f=maximum,a=13x7,b=13x7)"),
    (Prime, "elementwise/binary(f=minimum,a=13x7,b=13x7)"),
    (Prime, "elementwise/binary(f=where-positive,a=13x7,b=13x7)"),
    (Prime, "elementwise/binary(f=where-inside,low=-0.5,high=0.75,a=13x7,b=13x7)"),
    (Prime, "elementwise/binary(f=average,weight=0.9,a=13x7,b=13x7)"),
    (Prime, "elementwise/binary(f=average-square,weight=0.999,a=13x7,b=13x7)"),
    (Small, "elementwise/binary(f=subtract,a=3,b=3)"),
    (Ones, "elementwise/binary(f=subtract,a=1,b=1)"),
    (Ones, "elementwise/binary(f=subtract,a=1,b=7x1x3)"),
    (Ones, "elementwise/binary(f=divide,a=4x1x3,b=1)"),
    (Prime, "elementwise/binary(f=divide,factor=-0.7,a=1x13x1,b=5x13x7)"),
    (Uneven, "elementwise/binary(f=subtract,a=4x8x5x7,b=1x8x1x1)"),
    (Uneven, "elementwise/binary(f=multiply,a=3x1x5,b=1x7x1)"),
    (Uneven, "elementwise/binary(f=subtract,a=7,b=5x1)"),
    (Uneven, "elementwise/binary(f=average,weight=0.25,a=6x5,b=5)"),
    (Uneven, "elementwise/binary(f=maximum,a=2x3x4,b=3x1)"),
    (Tiled, "elementwise/binary(f=subtract,a=3x4x1300,b=4x1)"),
    (Folded, "elementwise/binary(f=subtract,a=3x65600x2,b=65600x1)"),
    (Folded, "elementwise/binary(f=subtract,a=65600x2x3,b=65600x1x3)"),
    (Prime, "elementwise/binary(f=multiply,factor=-3,a=5x13x7,b=5x13x7)"),
    (Prime, "elementwise/binary(f=multiply,factor=0.3,a=5x13x7,b=5x13x7)"),
    (Training, "elementwise/binary(f=multiply,a=64x16x14x14,b=1x16x1x1)"),
    //
    (Prime, "elementwise/multiply_add(a=5x13x7,b=5x13x7,c=5x13x7)"),
    (Small, "elementwise/multiply_add(a=3,b=3,c=3)"),
    (Ones, "elementwise/multiply_add(a=1,b=1,c=1)"),
    (Ones, "elementwise/multiply_add(a=1,b=7x1x3,c=1)"),
    (Uneven, "elementwise/multiply_add(a=4x8x5x7,b=1x8x1x1,c=1x8x1x1)"),
    (Uneven, "elementwise/multiply_add(a=8x1x1,b=4x8x5x7,c=4x1x1x1)"),
    (Uneven, "elementwise/multiply_add(a=3x1x5,b=1x7x1,c=7x5)"),
    (Uneven, "elementwise/multiply_add(a=6x1,b=5,c=6x5)"),
    (Tiled, "elementwise/multiply_add(a=3x4x1300,b=4x1,c=3x4x1300)"),
    (Folded, "elementwise/multiply_add(a=3x65600x2,b=65600x1,c=2)"),
    (Folded, "elementwise/multiply_add(a=65600x2x3,b=65600x1x3,c=65600x1x1)"),
    (Training, "elementwise/multiply_add(a=64x16x14x14,b=1x16x1x1,c=1x16x1x1)"),
    (Prime, "elementwise/multiply_add(p=-2,q=3,a=5x13x7,b=5x13x7,c=5x13x7)"),
    (Uneven, "elementwise/multiply_add(p=0.1,q=-0.7,a=4x8x5x7,b=1x8x1x1,c=1x8x1x1)"),
    (Prime, "elementwise/multiply_add(relu=1,a=5x13x7,b=5x13x7,c=5x13x7)"),
    (Uneven, "elementwise/multiply_add(relu=1,a=4x8x5x7,b=1x8x1x1,c=1x8x1x1)"),
    (Training, "elementwise/multiply_add(relu=1,a=64x16x14x14,b=1x16x1x1,c=1x16x1x1)"),
    //
    (Prime, "elementwise/multiply_add_2(a=5x13x7,b=5x13x7,c=5x13x7,d=5x13x7,e=5x13x7)"),
    (Small, "elementwise/multiply_add_2(a=3,b=3,c=3,d=3,e=3)"),
    (Ones, "elementwise/multiply_add_2(a=1,b=1,c=1,d=1,e=7x1x3)"),
    (Uneven, "elementwise/multiply_add_2(a=4x8x5x7,b=1x8x1x1,c=4x8x5x7,d=1x8x1x1,e=1x8x1x1)"),
    (Uneven, "elementwise/multiply_add_2(a=8x1x1,b=4x8x5x7,c=1x8x1x1,d=4x8x5x7,e=4x8x5x7)"),
    (Uneven, "elementwise/multiply_add_2(a=3x1x5,b=1x7x1,c=3x7x5,d=1,e=7x5)"),
    (Tiled, "elementwise/multiply_add_2(a=3x4x1300,b=4x1,c=1300,d=3x4x1,e=3x4x1300)"),
    (Folded, "elementwise/multiply_add_2(a=3x65600x2,b=65600x1,c=2,d=1,e=65600x2)"),
    (Folded, "elementwise/multiply_add_2(a=65600x2x3,b=65600x1x3,c=65600x1x1,d=65600x2x3,e=1)"),
    (Training, "elementwise/multiply_add_2(a=64x16x14x14,b=1x16x1x1,c=64x16x14x14,d=1x16x1x1,e=1x16x1x1)"),
    (Prime, "elementwise/multiply_add_2(p=2,q=-3,r=-2,a=5x13x7,b=5x13x7,c=5x13x7,d=5x13x7,e=5x13x7)"),
    (Uneven, "elementwise/multiply_add_2(p=0.1,q=-0.7,r=3.3,a=4x8x5x7,b=1x8x1x1,c=4x8x5x7,d=1,e=1x8x1x1)"),
    (Prime, "elementwise/multiply_add_2(relu=1,a=5x13x7,b=5x13x7,c=5x13x7,d=5x13x7,e=5x13x7)"),
    (Uneven, "elementwise/multiply_add_2(relu=1,a=4x8x5x7,b=1x8x1x1,c=4x8x5x7,d=1,e=1x8x1x1)"),
    //
    (Prime, "layout/reshape(x=6x5,to=3x10)"),
    (Prime, "layout/broadcast(x=5x1x7,to=5x13x7)"),
    (Small, "layout/broadcast(x=2x1,to=2x3)"),
    (Ones, "layout/broadcast(x=1,to=3x5)"),
    (Uneven, "layout/broadcast(x=8x1x1,to=4x8x5x7)"),
    (Uneven, "layout/broadcast(x=3x1x5,to=3x7x5)"),
    (Tiled, "layout/broadcast(x=1x5x1,to=3x5x1111)"),
    (Folded, "layout/broadcast(x=65600x1,to=65600x2)"),
    (Training, "layout/broadcast(x=1x16x1x1,to=64x16x14x14)"),
    (Prime, "layout/slice(x=5x13x7,axis=1,start=3,extent=7)"),
    (Small, "layout/slice(x=3x4,axis=1,start=1,extent=2)"),
    (Ones, "layout/slice(x=7,axis=0,start=6,extent=1)"),
    (Uneven, "layout/slice(x=5x3x2,axis=0,start=2,extent=3)"),
    (Tiled, "layout/slice(x=4x401x3,axis=1,start=1,extent=399)"),
    (Folded, "layout/slice(x=65600x3,axis=1,start=1,extent=1)"),
    (Training, "layout/slice(x=192x32,axis=0,start=48,extent=48)"),
    (Prime, "layout/pad(x=5x7x3,axis=1,start=4,extent=13)"),
    (Small, "layout/pad(x=3x2,axis=1,start=1,extent=4)"),
    (Ones, "layout/pad(x=1,axis=0,start=4,extent=5)"),
    (Uneven, "layout/pad(x=2x3,axis=0,start=0,extent=5)"),
    (Tiled, "layout/pad(x=4x133x3,axis=1,start=100,extent=399)"),
    (Folded, "layout/pad(x=65600x1,axis=1,start=1,extent=3)"),
    (Training, "layout/pad(x=48x32,axis=0,start=48,extent=192)"),
    (Prime, "layout/concat(a=3x5x7,b=3x11x7,axis=1)"),
    (Small, "layout/concat(a=2x1,b=2x2,axis=1)"),
    (Ones, "layout/concat(a=1,b=1,axis=0)"),
    (Uneven, "layout/concat(a=5x3,b=2x3,axis=0)"),
    (Tiled, "layout/concat(a=4x133x3,b=4x57x3,axis=1)"),
    (Folded, "layout/concat(a=65600x1,b=65600x2,axis=1)"),
    (Training, "layout/concat(a=48x1x28x28,b=48x1x28x28,axis=0)"),
    //
    (Prime, "reduce/sum(x=5x13x7,from=1,to=2)"),
    (Prime, "reduce/sum(x=5x13x131,from=2,to=3)"),
    (Small, "reduce/sum(x=2x3,from=1,to=2)"),
    (Ones, "reduce/sum(x=3x1x4,from=1,to=2)"),
    (Ones, "reduce/sum(x=1x1x130,from=2,to=3)"),
    (Uneven, "reduce/sum(x=4x5x6x7,from=0,to=2)"),
    (Uneven, "reduce/sum(x=4x5x6x7,from=2,to=4)"),
    (Uneven, "reduce/sum(x=3x129,from=1,to=2)"),
    (Tiled, "reduce/sum(x=70x1031,from=1,to=2)"),
    (Tiled, "reduce/sum(x=1031x70,from=0,to=1)"),
    (Folded, "reduce/sum(x=2x4194305,from=0,to=1)"),
    (Folded, "reduce/sum(x=65600x128,from=1,to=2)"),
    (Training, "reduce/sum(x=96x16x14x14,from=2,to=4)"),
    (Training, "reduce/sum(x=96x16,from=0,to=1)"),
    (Prime, "reduce/sum_product(x=5x13x7,from=1,to=2)"),
    (Prime, "reduce/sum_product(x=5x13x131,from=2,to=3)"),
    (Small, "reduce/sum_product(x=2x3,from=1,to=2)"),
    (Ones, "reduce/sum_product(x=3x1x4,from=1,to=2)"),
    (Ones, "reduce/sum_product(x=1x1x130,from=2,to=3)"),
    (Uneven, "reduce/sum_product(x=4x5x6x7,from=0,to=2)"),
    (Uneven, "reduce/sum_product(x=3x129,from=1,to=2)"),
    (Tiled, "reduce/sum_product(x=70x1031,from=1,to=2)"),
    (Tiled, "reduce/sum_product(x=1031x70,from=0,to=1)"),
    (Folded, "reduce/sum_product(x=2x4194305,from=0,to=1)"),
    (Folded, "reduce/sum_product(x=65600x128,from=1,to=2)"),
    (Training, "reduce/sum_product(x=96x16x14x14,from=2,to=4)"),
    (Training, "reduce/sum_product(x=96x16,from=0,to=1)"),
    (Prime, "reduce/squared_deviation(x=5x13x7,m=5x1x7,from=1,to=2)"),
    (Prime, "reduce/squared_deviation(x=11x7x3x5,m=1x7x1x1,from=0,to=1)"),
    (Small, "reduce/squared_deviation(x=2x3,m=2x1,from=1,to=2)"),
    (Prime, "reduce/squared_deviation(x=5x13x7,m=5x1x7,from=1,to=2,scale=0.3)"),
    (Ones, "reduce/squared_deviation(x=3x1x4,m=3x1x1,from=1,to=2)"),
    (Ones, "reduce/squared_deviation(x=1x1x130,m=1x1x1,from=2,to=3)"),
    (Uneven, "reduce/squared_deviation(x=4x5x6x7,m=1x1x6x1,from=0,to=2)"),
    (Uneven, "reduce/squared_deviation(x=129x3,m=1x3,from=0,to=1)"),
    (Tiled, "reduce/squared_deviation(x=131x70x8,m=1x70x1,from=0,to=1)"),
    (Tiled, "reduce/squared_deviation(x=131x512,m=1x512,from=0,to=1)"),
    (Folded, "reduce/squared_deviation(x=2x4194305,m=1x4194305,from=0,to=1)"),
    (Training, "reduce/squared_deviation(x=96x16x14x14,m=1x16x1x1,from=0,to=1)"),
    (Training, "reduce/squared_deviation(x=96x16,m=1x16,from=0,to=1)"),
    (Prime, "reduce/magnitude(rows=3,lanes=5,arrays=7,terms=7x13x5x1x11x3x17)"),
    (Small, "reduce/magnitude(rows=1,lanes=2,arrays=2,terms=2x3x1x1x1x1x1)"),
    (Ones, "reduce/magnitude(rows=1,lanes=1,arrays=1,terms=1x1x1x1x1x1x1)"),
    (Uneven, "reduce/magnitude(rows=2,lanes=7,arrays=5,terms=20x4x1x9x7x30x2)"),
    (Tiled, "reduce/magnitude(rows=3,lanes=70,arrays=3,terms=1031x517x211x1x1x1x1)"),
    (Folded, "reduce/magnitude(rows=2,lanes=2097153,arrays=1,terms=2097154x1x1x1x1x1x1)"),
    (Training, "reduce/magnitude(rows=4,lanes=576,arrays=7,terms=144x16x16x4608x32x32x9216)"),
    (Prime, "reduce/log_sum_exp(x=7x13)"),
    (Small, "reduce/log_sum_exp(x=2x3)"),
    (Ones, "reduce/log_sum_exp(x=1x1)"),
    (Uneven, "reduce/log_sum_exp(x=5x1)"),
    (Tiled, "reduce/log_sum_exp(x=131x67)"),
    (Folded, "reduce/log_sum_exp(x=4194305x2)"),
    (Training, "reduce/log_sum_exp(x=96x96)"),
    //
    (Prime, "pool/argmax(x=2x3x11x7,r=3,s=3,stride=2,padding=1)"),
    (Small, "pool/argmax(x=1x2x4x4,r=2,s=2,stride=2,padding=0)"),
    (Ones, "pool/argmax(x=1x1x1x1,r=1,s=1,stride=1,padding=0)"),
    (Uneven, "pool/argmax(x=3x2x7x10,r=4,s=2,stride=3,padding=1)"),
    (Uneven, "pool/argmax(x=2x2x9x8,r=2,s=3,stride=1,padding=0)"),
    (Tiled, "pool/argmax(x=3x5x19x23,r=3,s=5,stride=2,padding=2)"),
    (Folded, "pool/argmax(x=1x1x2051x2051,r=2,s=2,stride=1,padding=0)"),
    (Training, "pool/argmax(x=8x16x32x32,r=3,s=3,stride=2,padding=1)"),
    (Prime, "pool/select(x=2x3x11x7,r=3,s=3,stride=2,padding=1)"),
    (Small, "pool/select(x=1x2x4x4,r=2,s=2,stride=2,padding=0)"),
    (Ones, "pool/select(x=1x1x1x1,r=1,s=1,stride=1,padding=0)"),
    (Uneven, "pool/select(x=3x2x7x10,r=4,s=2,stride=3,padding=1)"),
    (Uneven, "pool/select(x=2x2x9x8,r=2,s=3,stride=1,padding=0)"),
    (Tiled, "pool/select(x=3x5x19x23,r=3,s=5,stride=2,padding=2)"),
    (Folded, "pool/select(x=1x1x2051x2051,r=2,s=2,stride=1,padding=0)"),
    (Training, "pool/select(x=8x16x32x32,r=3,s=3,stride=2,padding=1)"),
    (Prime, "pool/unpool(x=2x3x11x7,r=3,s=3,stride=2,padding=1)"),
    (Small, "pool/unpool(x=1x2x4x4,r=2,s=2,stride=2,padding=0)"),
    (Ones, "pool/unpool(x=1x1x1x1,r=1,s=1,stride=1,padding=0)"),
    (Uneven, "pool/unpool(x=3x2x7x10,r=4,s=2,stride=3,padding=1)"),
    (Uneven, "pool/unpool(x=2x2x9x8,r=2,s=3,stride=1,padding=0)"),
    (Tiled, "pool/unpool(x=3x5x19x23,r=3,s=5,stride=2,padding=2)"),
    (Folded, "pool/unpool(x=1x1x2051x2051,r=2,s=2,stride=1,padding=0)"),
    (Training, "pool/unpool(x=8x16x32x32,r=3,s=3,stride=2,padding=1)"),
    //
    (Prime, "sort/order(rows=13,columns=7)"),
    (Small, "sort/order(rows=3,columns=2)"),
    (Ones, "sort/order(rows=1,columns=1)"),
    (Uneven, "sort/order(rows=31,columns=1)"),
    (Tiled, "sort/order(rows=67,columns=71)"),
    (Folded, "sort/order(rows=2,columns=2097153)"),
    (Training, "sort/order(rows=96,columns=64)"),
    (Prime, "sort/gather(rows=13,columns=7,k=11)"),
    (Small, "sort/gather(rows=2,columns=3,k=2)"),
    (Ones, "sort/gather(rows=1,columns=1,k=1)"),
    (Uneven, "sort/gather(rows=2,columns=5,k=31)"),
    (Tiled, "sort/gather(rows=67,columns=71,k=70)"),
    (Folded, "sort/gather(rows=2,columns=2097153,k=2)"),
    (Training, "sort/gather(rows=96,columns=64,k=64)"),
    (Prime, "sort/scatter(rows=13,columns=7,k=11)"),
    (Small, "sort/scatter(rows=2,columns=3,k=2)"),
    (Ones, "sort/scatter(rows=1,columns=1,k=1)"),
    (Uneven, "sort/scatter(rows=2,columns=5,k=31)"),
    (Tiled, "sort/scatter(rows=67,columns=71,k=70)"),
    (Folded, "sort/scatter(rows=2,columns=2097153,k=2)"),
    (Training, "sort/scatter(rows=96,columns=64,k=64)"),
    //
    (Prime, "warp/affine(n=3,c=2,h=7,w=11,outside=zero)"),
    (Prime, "warp/affine(n=3,c=2,h=7,w=11,outside=nearest)"),
    (Small, "warp/affine(n=1,c=1,h=3,w=3,outside=zero)"),
    (Small, "warp/affine(n=1,c=1,h=3,w=3,outside=nearest)"),
    (Ones, "warp/affine(n=2,c=1,h=1,w=1,outside=zero)"),
    (Ones, "warp/affine(n=2,c=1,h=1,w=1,outside=nearest)"),
    (Uneven, "warp/affine(n=2,c=3,h=2,w=9,outside=zero)"),
    (Uneven, "warp/affine(n=2,c=3,h=2,w=9,outside=nearest)"),
    (Tiled, "warp/affine(n=4,c=3,h=19,w=23,outside=zero)"),
    (Folded, "warp/affine(n=65600,c=1,h=1,w=1,outside=zero)"),
    (Training, "warp/affine(n=48,c=1,h=28,w=28,outside=zero)"),
    (Training, "warp/affine(n=48,c=1,h=28,w=28,outside=nearest)"),
    (Prime, "warp/affine_matrix_vjp(n=3,c=2,h=7,w=11)"),
    (Small, "warp/affine_matrix_vjp(n=1,c=1,h=3,w=3)"),
    (Ones, "warp/affine_matrix_vjp(n=2,c=1,h=1,w=1)"),
    (Uneven, "warp/affine_matrix_vjp(n=2,c=3,h=2,w=9)"),
    (Tiled, "warp/affine_matrix_vjp(n=5,c=3,h=19,w=23)"),
    (Training, "warp/affine_matrix_vjp(n=48,c=1,h=28,w=28)"),
    (Prime, "warp/affine_image_vjp(n=3,c=2,h=7,w=11)"),
    (Small, "warp/affine_image_vjp(n=1,c=1,h=3,w=3)"),
    (Ones, "warp/affine_image_vjp(n=2,c=1,h=1,w=1)"),
    (Uneven, "warp/affine_image_vjp(n=2,c=3,h=2,w=9)"),
    (Tiled, "warp/affine_image_vjp(n=4,c=3,h=19,w=23)"),
    (Folded, "warp/affine_image_vjp(n=65600,c=1,h=1,w=1)"),
    (Training, "warp/affine_image_vjp(n=48,c=1,h=28,w=28)"),
    //
    (Prime, "cutdiff/mask(n=3,h=7,w=11)"),
    (Small, "cutdiff/mask(n=1,h=3,w=2)"),
    (Ones, "cutdiff/mask(n=1,h=1,w=1)"),
    (Uneven, "cutdiff/mask(n=2,h=1,w=13)"),
    (Tiled, "cutdiff/mask(n=5,h=19,w=23)"),
    (Folded, "cutdiff/mask(n=65600,h=1,w=2)"),
    (Training, "cutdiff/mask(n=48,h=28,w=28)"),
    (Prime, "cutdiff/mask_vjp(n=3,h=7,w=11)"),
    (Small, "cutdiff/mask_vjp(n=1,h=3,w=2)"),
    (Ones, "cutdiff/mask_vjp(n=1,h=1,w=1)"),
    (Uneven, "cutdiff/mask_vjp(n=2,h=1,w=13)"),
    (Tiled, "cutdiff/mask_vjp(n=7,h=19,w=23)"),
    (Training, "cutdiff/mask_vjp(n=48,h=28,w=28)"),
    (Prime, "softbox/mask(n=3,h=7,w=11)"),
    (Small, "softbox/mask(n=1,h=3,w=2)"),
    (Ones, "softbox/mask(n=1,h=1,w=1)"),
    (Uneven, "softbox/mask(n=2,h=1,w=13)"),
    (Tiled, "softbox/mask(n=5,h=19,w=23)"),
    (Folded, "softbox/mask(n=65600,h=1,w=2)"),
    (Training, "softbox/mask(n=48,h=28,w=28)"),
    (Prime, "softbox/mask_vjp(n=3,h=7,w=11)"),
    (Small, "softbox/mask_vjp(n=1,h=3,w=2)"),
    (Ones, "softbox/mask_vjp(n=1,h=1,w=1)"),
    (Uneven, "softbox/mask_vjp(n=2,h=1,w=13)"),
    (Tiled, "softbox/mask_vjp(n=7,h=19,w=23)"),
    (Training, "softbox/mask_vjp(n=48,h=28,w=28)"),
    //
    (Prime, "random/uniform(stream=3,y=7x13)"),
    (Small, "random/uniform(stream=0,y=3)"),
    (Ones, "random/uniform(stream=1,y=1)"),
    (Ones, "random/uniform(stream=1,keys=3,y=3x1)"),
    (Uneven, "random/uniform(stream=4294967295,y=257)"),
    (Uneven, "random/uniform(stream=1,keys=3,y=15x7)"),
    (Tiled, "random/uniform(stream=2,y=1031)"),
    (Tiled, "random/uniform(stream=2,keys=5,y=2x35x11)"),
    (Training, "random/uniform(stream=1,y=2x48x1)"),
    (Training, "random/uniform(stream=1,keys=8,y=2x384x1)"),
    //
    (Prime, "optimiser/adam(theta=7x13)"),
    (Small, "optimiser/adam(theta=3)"),
    (Ones, "optimiser/adam(theta=1)"),
    (Tiled, "optimiser/adam(theta=1031)"),
    (Folded, "optimiser/adam(theta=4194305)"),
    (Training, "optimiser/adam(theta=32x16x3x3)"),
];

/// All cases with their classes.
///
/// # Panics
/// When a name in the catalogue stands for no case; a test parses them all.
pub fn cases() -> Vec<(ShapeClass, Case)> {
    let roles = CONV2D.iter().flat_map(|&(class, geometry)| {
        ["output", "input", "kernel"].map(|role| (class, format!("conv2d/{role}({geometry})")))
    });
    let others = OTHERS.iter().map(|&(class, name)| (class, name.to_owned()));
    let parse = |(class, name): (ShapeClass, String)| match name.parse() {
        Ok(case) => (class, case),
        Err(error) => panic!("{error}"),
    };
    roles.chain(others).map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_found_again_by_its_name() {
        let cases = cases();
        for (_, case) in &cases {
            let again: Case = case.to_string().parse().unwrap();
            assert_eq!(again.to_string(), case.to_string());
            assert_eq!(format!("{:?}", again.primitive), format!("{:?}", case.primitive));
            assert_eq!(again.inputs, case.inputs);
            assert!(case.to_string().starts_with(case.primitive.name()), "{case}");
        }
        let mut names: Vec<String> = cases.iter().map(|(_, case)| case.to_string()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), cases.len(), "a case is listed twice");
    }

    #[test]
    fn names_that_stand_for_no_case_are_refused() {
        for (name, reason) in [
            ("conv2d/input", "form"),
            ("conv3d/input(n=1)", "family"),
            ("layout/twist(x=1)", "twist"),
            ("conv2d/output(n=1,c=6,h=1,w=1,k=4,r=1,s=1,stride=1,padding=0,groups=3)", "divide"),
            ("reduce/sum(x=3x4,from=1)", "`to` is missing"),
            ("reduce/sum(x=3x4,from=1,to=2,by=1)", "by"),
            ("reduce/sum(x=3x4,from=1,to=9)", "axes"),
            ("reduce/sum(x=3x0,from=1,to=2)", "zero"),
            ("pool/mean(x=1x1x2x2,r=1,s=1,stride=1,padding=0)", "there is no `mean` in pool"),
        ] {
            let error = name.parse::<Case>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn data_is_a_function_of_the_seed() {
        let case: Case = "elementwise/unary(f=exp,x=131)".parse().unwrap();
        assert_eq!(case.floats(1), case.floats(1));
        assert_ne!(case.floats(1), case.floats(2));
        assert!(case.integers(1)[0].data().iter().all(|x| x.fract() == 0.0 && x.abs() <= 4.0));
    }
}
