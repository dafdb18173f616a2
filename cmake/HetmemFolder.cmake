# hetmem_folder(NAME folder LINKS target...): one static library a folder, from the sources in it and
# in the sub-folders named with SUBFOLDERS. Include paths start at the root of the repository.
function(hetmem_folder name)
  cmake_parse_arguments(ARG "" "" "LINKS;SUBFOLDERS" ${ARGN})
  set(patterns ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  foreach(sub ${ARG_SUBFOLDERS})
    list(APPEND patterns ${CMAKE_CURRENT_SOURCE_DIR}/${sub}/*.cpp)
  endforeach()
  file(GLOB sources CONFIGURE_DEPENDS ${patterns})
  add_library(hetmem_${name} STATIC ${sources})
  add_library(hetmem::${name} ALIAS hetmem_${name})
  target_include_directories(hetmem_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:include/hetmem>)
  target_compile_features(hetmem_${name} PUBLIC cxx_std_20)
  target_link_libraries(hetmem_${name} PUBLIC ${ARG_LINKS} PRIVATE hetmem_warnings)
  set_target_properties(hetmem_${name} PROPERTIES EXPORT_NAME ${name} POSITION_INDEPENDENT_CODE ON)
  install(TARGETS hetmem_${name} EXPORT hetmem ARCHIVE DESTINATION lib)
endfunction()
