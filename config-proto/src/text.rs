//! Types that are one text in JSON: the same that people read and write.

/// Gives a type with `Display` and `FromStr` what `#[serde(try_from = "String", into = "String")]` asks for.
macro_rules! text_in_json {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = <Self as std::str::FromStr>::Err;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}

pub(crate) use text_in_json;
