"""One module a page: `page(world, query)` gives content and title, `register` adds callbacks."""
