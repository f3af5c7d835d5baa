//! One way to declare a structure that both sides read: its layout is written once and checked by the compiler.

/// A fixed-size value inside a record. User space alone converts to and from bytes; the kernel programs use the
/// structures in place.
#[cfg(not(target_arch = "bpf"))]
pub(crate) trait Field: Copy {
    fn store(self, out: &mut [u8]);
    fn load(bytes: &[u8]) -> Self;
}

#[cfg(not(target_arch = "bpf"))]
macro_rules! integer_field {
    ($($integer:ty),*) => {$(
        impl Field for $integer {
            fn store(self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_ne_bytes());
            }

            fn load(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<Self>()];
                own.copy_from_slice(bytes);
                Self::from_ne_bytes(own)
            }
        }
    )*};
}

#[cfg(not(target_arch = "bpf"))]
integer_field!(u16, u32, u64);

/// Declares a `#[repr(C)]` structure of a stated size with fields at stated offsets. Compilation fails when a field is
/// elsewhere, when the size differs, or when the fields leave a gap: padding would carry stray kernel memory to user
/// space and make map keys that look equal differ.
macro_rules! record {
    (
        $(#[$struct_attribute:meta])*
        pub struct $name:ident: $size:literal bytes {
            $($(#[$field_attribute:meta])* $offset:literal => $field:ident: $kind:ty,)*
        }
    ) => {
        $(#[$struct_attribute])*
        #[repr(C)]
        #[derive(Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name {
            $($(#[$field_attribute])* pub $field: $kind,)*
        }

        const _: () = assert!(size_of::<$name>() == $size);
        const _: () = assert!(0 $(+ size_of::<$kind>())* == $size);
        $(const _: () = assert!(core::mem::offset_of!($name, $field) == $offset);)*

        #[cfg(not(target_arch = "bpf"))]
        impl $name {
            /// The bytes as the kernel sees them, in this machine's order.
            pub fn to_bytes(self) -> [u8; $size] {
                let mut bytes = [0; $size];
                $crate::record::Field::store(self, &mut bytes);
                bytes
            }

            /// What the kernel wrote, in this machine's order. Every bit pattern is a value.
            pub fn from_bytes(bytes: &[u8; $size]) -> Self {
                $crate::record::Field::load(bytes)
            }
        }

        #[cfg(not(target_arch = "bpf"))]
        impl $crate::record::Field for $name {
            fn store(self, out: &mut [u8]) {
                $($crate::record::Field::store(self.$field, &mut out[$offset..$offset + size_of::<$kind>()]);)*
            }

            fn load(bytes: &[u8]) -> Self {
                Self {
                    $($field: $crate::record::Field::load(&bytes[$offset..$offset + size_of::<$kind>()]),)*
                }
            }
        }
    };
}

/// Declares a newtype over `u32` that may be a field of a record.
macro_rules! word {
    ($(#[$attribute:meta])* pub struct $name:ident;) => {
        $(#[$attribute])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u32);

        #[cfg(not(target_arch = "bpf"))]
        impl $crate::record::Field for $name {
            fn store(self, out: &mut [u8]) {
                $crate::record::Field::store(self.0, out);
            }

            fn load(bytes: &[u8]) -> Self {
                Self($crate::record::Field::load(bytes))
            }
        }
    };
}

pub(crate) use {record, word};
