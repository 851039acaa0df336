"""Where moe_cute takes a place inside other libraries; each module here needs the library that it is named after."""
