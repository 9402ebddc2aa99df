//! Tests of the database against a real file.
