//! Which messages a subscription wants: tag expressions and SQL92.

mod sql;
mod tag;

pub use sql::{SqlError, SqlFilter};
pub use tag::{NoTag, TAG, TagFilter, is_tag_type};

/// Expression type of [`SqlFilter`]. Java: `ExpressionType.SQL92`.
pub const SQL92: &str = "SQL92";

/// Which messages a subscription wants.
#[derive(Debug, Clone)]
pub enum Filter {
    /// By the hash of the tag, which stands in the queue.
    Tag(TagFilter),
    /// By an expression over the properties, which stand in the record.
    Sql(SqlFilter),
}

impl Filter {
    /// Whether an entry with this tag hash may match.
    pub fn matches_entry(&self, tags_code: i64) -> bool {
        match self {
            Filter::Tag(tags) => tags.matches(tags_code),
            Filter::Sql(_) => true,
        }
    }
}

impl Default for Filter {
    /// Everything.
    fn default() -> Self {
        Filter::Tag(TagFilter::default())
    }
}
