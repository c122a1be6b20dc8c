"""Adapters: relevance in the form that other libraries give and take. Each needs the library that it is named after."""
